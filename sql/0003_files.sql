create table files (
  key          text primary key,
  user_id      int references users on delete set null,
  kind         text not null,
  hash         text not null,
  size         bigint not null,
  content_type text not null,
  width        int,
  height       int,
  created_at   timestamptz not null default now(),
  constraint files_kind_known check (kind in ('picture', 'model')),
  constraint files_hash_sha256 check (hash ~ '^[0-9a-f]{64}$'),
  constraint files_size_positive check (size > 0),
  constraint files_picture_has_size check ((kind = 'picture') = (width is not null and height is not null))
);
comment on table files is 'Every stored file: what was uploaded and what engines produced.';
comment on column files.key is 'Names the object in the store and in /api/files/{key}: random, never the caller''s.';
comment on column files.user_id is 'Whose it is; null once that user is gone, until the sweep has removed the bytes.';
comment on column files.hash is 'sha256 of the stored bytes, lower-case hex.';
comment on column files.size is 'In bytes.';
create unique index files_owner_hash_unique on files (user_id, hash);
create index files_orphaned on files (created_at) where user_id is null;
