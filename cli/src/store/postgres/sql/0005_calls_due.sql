-- Version 5. S7: a claim of a call reads the first of each index, however many calls are undelivered. Programs of version 4 may go
-- on here: no function has other arguments or results.
drop index completions_by_command;
drop index completions_by_url;

-- In the order in which they are claimed: those that wait for nothing, due since their ends, apart from those with a time to
-- wait for, due since then.
create index completions_fresh_by_command on completions (operation, ended_at, batch, generation)
    where delivered_at is null and lease is null and not_before is null and url is null;
create index completions_waiting_by_command on completions (operation, not_before, batch, generation)
    where delivered_at is null and lease is null and not_before is not null and url is null;
create index completions_fresh_by_url on completions (operation, ended_at, batch, generation)
    where delivered_at is null and lease is null and not_before is null and url is not null;
create index completions_waiting_by_url on completions (operation, not_before, batch, generation)
    where delivered_at is null and lease is null and not_before is not null and url is not null;
-- For whoever may call few of the URLs that are due. Their beginnings do: an entry of an index has a largest size, a URL none. That nobody holds it is said otherwise: a search by URL is to use these alone.
create index completions_fresh_under_url on completions (operation, (left(url, 256)) collate "C")
    where delivered_at is null and coalesce(lease, -1) = -1 and not_before is null and url is not null;
create index completions_waiting_under_url on completions (operation, (left(url, 256)) collate "C")
    where delivered_at is null and coalesce(lease, -1) = -1 and not_before is not null and url is not null;
