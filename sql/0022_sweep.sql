-- What the daily sweep looks for.
create index sessions_revoked on sessions (revoked_at) where status = 'revoked';
