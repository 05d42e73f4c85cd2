create table datasets (
  id         int generated always as identity primary key,
  name       text collate "C" not null,
  info       text not null default '',
  images     text[] not null default '{}',
  captions   jsonb not null default '{}',
  report     jsonb not null default '[]',
  public     boolean not null default false,
  tag_ids    int[] not null default '{}',
  user_id    int not null references users on delete cascade,
  revision   int not null default 1,
  version    int not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint datasets_name_length check (char_length(name) between 1 and 120),
  constraint datasets_captions_object check (jsonb_typeof(captions) = 'object'),
  constraint datasets_report_array check (jsonb_typeof(report) = 'array')
);
comment on column datasets.images is 'In order: /api/files/{key} for what we store, else an absolute http(s) URL.';
comment on column datasets.captions is 'From an element of images to its caption.';
comment on column datasets.report is 'What the last training made of each picture: [{url, status, detail}].';
create index datasets_by_user on datasets (user_id, id);
create index datasets_by_image on datasets using gin (images);
call watch_table('datasets', array['name', 'info', 'images', 'captions', 'public', 'tag_ids', 'user_id']);
