-- A trained model gets its cover by a task of its own, which no GPU for training waits for.
alter table tasks add is_cover boolean not null default false;
comment on column tasks.is_cover is 'Its picture becomes the cover of its model, unless that has got one meanwhile.';
