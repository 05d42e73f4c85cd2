create table users (
  id            int generated always as identity primary key,
  name          text collate "C" not null,
  email         text not null,
  password_hash text not null,
  admin         boolean not null default false,
  disabled      boolean not null default false,
  revision      int not null default 1,
  version       int not null default 1,
  created_at    timestamptz not null default now(),
  updated_at    timestamptz not null default now(),
  constraint users_name_length check (char_length(name) between 1 and 120)
);
comment on column users.password_hash is 'An argon2id string in PHC format; it carries its own salt.';
create unique index users_email_unique on users (lower(email));
create index users_newest on users (created_at, id);
call watch_table('users', array['name', 'email', 'password_hash', 'admin', 'disabled']);

create table sessions (
  id         text primary key,
  token_hash bytea not null,
  user_id    int not null references users on delete cascade,
  ip         text not null,
  user_agent text not null,
  status     text not null default 'active',
  expires_at timestamptz not null default now() + interval '30 days',
  revoked_at timestamptz,
  revision   int not null default 1,
  version    int not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint sessions_token_unique unique (token_hash),
  constraint sessions_status_known check (status in ('active', 'revoked')),
  constraint sessions_revoked_when_said check ((revoked_at is not null) = (status = 'revoked'))
);
comment on column sessions.id is 'Public: it names the session in URLs and is not the token.';
comment on column sessions.token_hash is 'SHA-256 of the bearer token, the only trace of it.';
create index sessions_by_user on sessions (user_id, created_at desc);
create index sessions_expiring on sessions (expires_at);
call watch_table('sessions', array['status'], array['expires_at']);

-- Whoever may no longer log in, and whoever has a new password, loses the sessions that are open. The caller's own
-- session survives a change of its password: the API names it in `atelier.keep_session`.
create function revoke_sessions() returns trigger language plpgsql as $$
begin
  update sessions
  set status = 'revoked', revoked_at = now()
  where user_id = new.id
    and status = 'active'
    and (new.disabled or id is distinct from nullif(current_setting('atelier.keep_session', true), ''));
  return null;
end $$;
create trigger c_revoke_sessions after update of password_hash, disabled on users
  for each row when (old.password_hash <> new.password_hash or (new.disabled and not old.disabled))
  execute function revoke_sessions();

-- The last admin who can log in must stay one. The lock makes two admins who resign at once wait for each other.
create function keep_an_admin() returns trigger language plpgsql as $$
begin
  perform pg_advisory_xact_lock(hashtext('atelier.last-admin'));
  if not exists (select from users where admin and not disabled and id <> old.id) then
    raise exception 'the last admin must stay' using errcode = 'check_violation', constraint = 'users_last_admin';
  end if;
  return case tg_op when 'DELETE' then old else new end;
end $$;
create trigger c_keep_an_admin_update before update of admin, disabled on users
  for each row when (old.admin and not old.disabled and (not new.admin or new.disabled)) execute function keep_an_admin();
create trigger c_keep_an_admin_delete before delete on users
  for each row when (old.admin and not old.disabled) execute function keep_an_admin();
