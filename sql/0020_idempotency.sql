-- The answers of POSTs that carried an Idempotency-Key, to be given again when the same request comes again.
create table idempotency_keys (
  scope       bytea primary key,
  fingerprint bytea not null,
  status      int,
  headers     jsonb,
  body        text,
  created_at  timestamptz not null default now(),
  constraint idempotency_keys_answered_whole check (num_nulls(status, headers, body) in (0, 3))
);
comment on table idempotency_keys is
  'Written in the transaction of the effect, so that both exist or neither. Counts for 24 hours, then it is swept.';
comment on column idempotency_keys.scope is 'HMAC of caller, method, path and key: what the same request is the same by.';
comment on column idempotency_keys.fingerprint is 'HMAC of what was sent: the canonical JSON, or the hash of the file.';
comment on column idempotency_keys.status is 'Null only while the transaction runs: no other one sees that.';
create index idempotency_keys_by_age on idempotency_keys (created_at);
