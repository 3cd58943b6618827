-- Version 7. S7: a claim of a call reads the first of each index, however many calls are undelivered; a watch sees that calls
-- have come due, without looking for them. Programs of version 6 may go on here: what they end is found at the next look.
drop index completions_by_command;
drop index completions_by_url;

-- In the order in which they are claimed: those that wait for nothing, due since their ends, apart from those with a time to
-- wait for, due since then.
create index completions_fresh_by_command on completions (operation, ended_at, batch, generation)
    where delivered_at is null and lease is null and not_before is null and url is null;
create index completions_waiting_by_command on completions (operation, not_before, batch, generation)
    where delivered_at is null and lease is null and not_before is not null and url is null;
create index completions_fresh_by_url on completions (operation, ended_at, batch, generation, url)
    where delivered_at is null and lease is null and not_before is null and url is not null;
create index completions_waiting_by_url on completions (operation, not_before, batch, generation, url)
    where delivered_at is null and lease is null and not_before is not null and url is not null;
-- For whoever may call few of the URLs that are due.
create index completions_fresh_under_url on completions (operation, url, ended_at, batch, generation)
    where delivered_at is null and lease is null and not_before is null and url is not null;
create index completions_waiting_under_url on completions (operation, url, not_before, batch, generation)
    where delivered_at is null and lease is null and not_before is not null and url is not null;

-- Rises in the transaction that makes a call due: it is new, or free again.
alter table store add column calls_due integer not null default 0;
