-- Version 2. R2: a judge that finds a lease late writes here, to know that renewals could be written too.
alter table store add column looked_at integer;
