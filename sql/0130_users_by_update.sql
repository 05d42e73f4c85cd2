create index users_by_update on users (updated_at, id);
comment on index users_by_update is 'For admins, who may sort users by it.';
