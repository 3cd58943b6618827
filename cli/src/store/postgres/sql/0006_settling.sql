-- No table changes: settling a claim tells what was stopped of it, and takes nothing back (functions/03_claimed.sql).
select 1;
