create table uploads (
  key          text primary key,
  user_id      int not null references users on delete cascade,
  content_type text,
  size         bigint not null,
  received     bigint not null default 0,
  parts        text[] not null default '{}',
  file_key     text references files on delete cascade,
  created_at   timestamptz not null default now(),
  expires_at   timestamptz not null,
  constraint uploads_size_positive check (size > 0),
  constraint uploads_received_range check (received between 0 and size)
);
comment on table uploads is
  'Files on their way: sent to the object store directly (content_type is set), or in parts that can be resumed.';
comment on column uploads.key is 'Its objects in the store are pending/{key}, or pending/{key}/… for parts.';
comment on column uploads.parts is 'Objects that hold what was received, in order.';
comment on column uploads.file_key is 'What it became; null until it was completed.';
create index uploads_by_user on uploads (user_id);
create index uploads_by_file on uploads (file_key) where file_key is not null;
create index uploads_expired on uploads (expires_at);

-- Serves the sum of what a user stores from the index alone.
create index files_by_user on files (user_id, created_at, key) include (size);
