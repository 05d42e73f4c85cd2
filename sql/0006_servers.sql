create table servers (
  id                 int generated always as identity primary key,
  name               text collate "C" not null,
  type               text not null,
  engine             text,
  ip                 text not null,
  port               int not null,
  tls                boolean not null default false,
  tls_ca             text,
  slots              int not null default 1,
  status             text not null default 'initial',
  username           text not null default '',
  password_sealed    text,
  private_key_sealed text,
  host_key           text,
  checkpoints        jsonb not null default '{}',
  facts              jsonb not null default '{}',
  queue              jsonb,
  error              text,
  failures           int not null default 0,
  last_seen_at       timestamptz,
  revision           int not null default 1,
  version            int not null default 1,
  created_at         timestamptz not null default now(),
  updated_at         timestamptz not null default now(),
  constraint servers_name_unique unique (name),
  constraint servers_address_unique unique (ip, port) deferrable,
  constraint servers_name_length check (char_length(name) between 1 and 120),
  constraint servers_type_known check (type in ('train', 'infer')),
  constraint servers_engine_known check (engine in ('comfyui', 'a1111', 'kohya')),
  constraint servers_port_range check (port between 1 and 65535),
  constraint servers_slots_range check (slots between 1 and 64),
  constraint servers_status_known check (status in ('initial', 'idle', 'ready', 'working', 'error', 'closing'))
);
comment on column servers.password_sealed is 'AES-256-GCM under SECRET_KEY with the key''s id; never answered.';
comment on column servers.checkpoints is 'From a base model (SD1.5, SD2) to the engine''s own file name.';
comment on column servers.facts is 'What the last probe reported: version, devices, capabilities.';
comment on column servers.failures is 'Probes and attempts that failed in a row since it last answered.';
call watch_table('servers', array['name', 'type', 'engine', 'ip', 'port', 'tls', 'tls_ca', 'slots', 'status',
  'username', 'password_sealed', 'private_key_sealed', 'host_key', 'checkpoints'], array['error']);
