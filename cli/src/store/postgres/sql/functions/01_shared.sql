-- What the functions of the requests share.
--
-- Functions that are called from outside carry their settings (99_settings.sql), so that they behave alike on every
-- connection, behind a pooler too; those that they call inherit them. All are plpgsql, whose plans stay from call to call,
-- except where SQL is merged into the statement that uses it.
--
-- Spans that are sought by token or among the suspects say `coalesce(lease, -1) = ...` of their holder: said plainly, it
-- would let the planner read all of another partial index where statistics make that look small.

-- The store's clock in microseconds: `at` where a test sets it, else the database's. Never the transaction's start:
-- what decides about others' times asks after its locks are held.
create or replace function store_time(at bigint) returns bigint
language sql volatile as $$
    select coalesce(at, (extract(epoch from clock_timestamp()) * 1000000)::bigint)
$$;

-- What every request begins with. Under any other isolation level "lock first, look in the next statement" does not hold, and
-- batches stay open for ever. And what is acknowledged is on the disk, whatever the role or the database says of
-- `synchronous_commit`: a worker forgets what was recorded.
create or replace function begin_request() returns void
language plpgsql volatile as $$
begin
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'fencepost works under READ COMMITTED only, not under %', current_setting('transaction_isolation')
            using errcode = 'object_not_in_prerequisite_state';
    end if;
    if current_setting('synchronous_commit') = 'off' then
        perform set_config('synchronous_commit', 'on', true);
    end if;
end $$;

-- How many lines.
create or replace function count_lines(lines int8multirange) returns bigint
language plpgsql immutable as $$
begin
    return (select coalesce(sum(upper(r) - lower(r)), 0) from unnest(lines) r);
end $$;

-- The first `wanted` lines.
create or replace function first_lines(lines int8multirange, wanted bigint) returns int8multirange
language plpgsql immutable as $$
begin
    return (
        select coalesce(range_agg(int8range(lower(r), least(upper(r), lower(r) + wanted - before))), '{}')
        from (
            select r, (sum(upper(r) - lower(r)) over (order by lower(r)) - (upper(r) - lower(r)))::bigint as before
            from unnest(lines) r
        ) counted
        where before < wanted
    );
end $$;

-- Wakes idle workers when this transaction commits; one notification however often it is called.
create or replace function tell_of_free_lines() returns void
language plpgsql volatile as $$
begin
    perform pg_notify('fencepost_' || current_schema(), '');
end $$;

-- p1_counts: attempts and crashes of a line count from its last operator's retry on, which is where its tokens are larger than
-- those of the outcomes that retries took away. 0: none was.
create or replace function superseded_token(of_batch bigint, of_line bigint) returns bigint
language plpgsql volatile as $$
begin
    return coalesce((
        select a.token from attempts a
        where a.batch = of_batch and a.first_line = of_line and a.kind = 'superseded'
        order by a.token desc limit 1
    ), 0);
end $$;

-- O4: the lock of a batch whose open line a recovery may fail (P2). With fresh lines left it is shared; with the
-- cursor past the last line it is exclusive. Answers whether it is exclusive. A record's locks: `lock_for_outcomes`.
--
-- The cursor is read without a lock first, and again under the shared lock, since a claim may have taken the last fresh
-- lines in between. Then the shared lock is let go, by rolling back the block it was taken in, before the exclusive one is
-- asked for: upgrading it would deadlock with another that does the same.
create or replace function lock_batch_for_a_crash(of_batch bigint) returns boolean
language plpgsql volatile as $$
#variable_conflict use_column
declare
    v_at_end boolean;
begin
    select b.cursor > b.total into v_at_end from batches b where b.batch = of_batch;
    if not v_at_end then
        begin
            select b.cursor > b.total into v_at_end from batches b where b.batch = of_batch for key share;
            if not v_at_end then
                return false;
            end if;
            raise exception 'at the end' using errcode = 'FP001';
        exception when sqlstate 'FP001' then
            null;
        end;
    end if;
    perform 1 from batches b where b.batch = of_batch for update;
    return true;
end $$;

-- O4: ends the batch where no line of it is open any more. The caller holds it exclusively from before the fence. The
-- update tests all of it once more, whatever was looked at before.
create or replace function end_batch_if_finished(of_batch bigint, ended_at_us bigint) returns void
language plpgsql volatile as $$
#variable_conflict use_column
begin
    update batches b
    set status = case when (select sum(t.failed) from tallies t where t.batch = of_batch) > 0
                      then 'failed' else 'success' end,
        ended_at = ended_at_us
    where b.batch = of_batch and b.status = 'open' and b.cursor > b.total
      and not exists (select from spans s where s.batch = of_batch and s.lease is null)
      and not exists (select from spans s where s.batch = of_batch and s.lease is not null);
    if found then
        insert into completions (batch, generation, status, success, failed, aborted, ended_at)
        select b.batch, b.generation, b.status, coalesce(sum(t.success), 0), coalesce(sum(t.failed), 0), 0, b.ended_at
        from batches b left join tallies t on t.batch = b.batch
        where b.batch = of_batch
        group by b.batch;
    end if;
end $$;
