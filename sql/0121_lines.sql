-- A task's place among its owner's: counted for every waiting task of a list's page, from the index alone. The rows of
-- a hundred users with thousands of waiting tasks each took two thirds of such a page's time.
create index tasks_in_line on tasks (user_id, rank, id) include (need_id, start_before) where rank is not null;
