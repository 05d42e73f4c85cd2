create table params (
  id         text primary key,
  overrides  jsonb not null default '{}',
  revision   int not null default 1,
  version    int not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint params_overrides_object check (jsonb_typeof(overrides) = 'object')
);
comment on table params is 'What admins changed in the parameter catalogue; the built-in half is in the code.';
call watch_table('params', array['overrides']);
insert into params (id) values ('dataset'), ('image'), ('model'), ('server'), ('task');
