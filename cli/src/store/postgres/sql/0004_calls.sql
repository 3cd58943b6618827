-- Version 4. S7: completion calls are made.
alter table batches add column on_done_url text;     -- where its ends are told; null: by the operation's command, if any
alter table leases add column calls text;            -- JSON: the completion calls that its worker makes, where it makes any
alter table completions add column operation text;   -- of the batch; its url was there before

update completions c set operation = (select b.operation from batches b where b.batch = c.batch);

-- In the order in which they are claimed: the one that is due the longest comes first.
create index completions_by_command on completions (operation, coalesce(not_before, ended_at), batch, generation)
    where delivered_at is null and url is null;
create index completions_by_url on completions (operation, coalesce(not_before, ended_at), batch, generation)
    where delivered_at is null and url is not null;
create index completions_held on completions (lease) where lease is not null;
create index completions_waiting on completions (not_before) where not_before is not null and delivered_at is null and lease is null;

-- Programs of earlier versions call functions as they were.
update store set worker_version_min = 4;
