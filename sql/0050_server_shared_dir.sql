alter table servers add column shared_dir text;
comment on column servers.shared_dir is
  'Where models for the engine are put: a path as the workers see it (kohya: as its own host does), or sftp://user@host/path.';
comment on column servers.host_key is
  'The SSH host key, `type base64`, pinned at the first log-in. Another one is refused until an admin sets this to null.';

-- What callers write, as in 0006, and the new column.
drop trigger b_revision on servers;
create trigger b_revision before update on servers for each row
  when (
    (old.name, old.type, old.engine, old.ip, old.port, old.tls, old.tls_ca, old.slots, old.status, old.username,
      old.password_sealed, old.private_key_sealed, old.host_key, old.checkpoints, old.shared_dir)
    is distinct from
    (new.name, new.type, new.engine, new.ip, new.port, new.tls, new.tls_ca, new.slots, new.status, new.username,
      new.password_sealed, new.private_key_sealed, new.host_key, new.checkpoints, new.shared_dir)
  )
  execute function bump_revision();
