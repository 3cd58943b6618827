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

-- Notifies all that listen, when this transaction commits; the same told twice in it is told once. '': lines are free. `batch`: of a
-- batch that is open for claims now. `lease`: a lease was taken. `ended`: a completion call is due. A batch's id: it was aborted.
create or replace function tell(p_what text) returns void
language plpgsql volatile as $$
begin
    perform pg_notify('fencepost_' || current_schema(), p_what);
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

-- O5: how many attempts the line used up since its last operator's retry.
create or replace function attempts_used(of_batch bigint, of_line bigint) returns integer
language plpgsql volatile as $$
declare
    v_after bigint := superseded_token(of_batch, of_line);
begin
    return (
        select count(*) from attempts a
        where a.batch = of_batch and a.first_line = of_line and a.kind in ('retried', 'timed_out') and a.token > v_after
    );
end $$;

-- p1_crashes: how many crashes are the line's since its last operator's retry.
create or replace function crashes_counted(of_batch bigint, of_line bigint) returns integer
language plpgsql volatile as $$
declare
    v_after bigint := superseded_token(of_batch, of_line);
begin
    return (
        select greatest(count(*) filter (where a.kind = 'crashed') - count(*) filter (where a.kind = 'crash_withdrawn'), 0)
        from attempts a
        where a.batch = of_batch and a.first_line = of_line and a.kind in ('crashed', 'crash_withdrawn') and a.token > v_after
    );
end $$;

-- S2: these lines of aborted batches do not run any more: they were given back or answered, under the tokens they were held under.
-- One place per span.
create or replace function stopped_lines(p_lease bigint, p_tokens bigint[], p_lines int8multirange[]) returns void
language plpgsql volatile as $$
#variable_conflict use_column
begin
    perform 1 from stopping s where s.token = any (p_tokens) and s.lease = p_lease order by s.token for update;
    if not found then
        return;
    end if;
    -- s2_still_runs
    update stopping s set lines = s.lines - g.lines, line_count = count_lines(s.lines - g.lines)
    from (
        select e.token, range_agg(r) as lines from unnest(p_tokens, p_lines) e (token, lines) cross join lateral unnest(e.lines) r
        group by e.token
    ) g
    where s.token = g.token and s.lease = p_lease;
    delete from stopping s where s.token = any (p_tokens) and s.lease = p_lease and s.line_count = 0;
end $$;

-- S2: nothing that this lease held runs any more: it has ended.
create or replace function stopped_lease(p_lease bigint) returns void
language plpgsql volatile as $$
#variable_conflict use_column
begin
    perform 1 from stopping s
    where s.lease = p_lease order by s.token for update;
    if found then
        delete from stopping s where s.lease = p_lease;
    end if;
end $$;

-- S7: the record of an ended batch's generation; rows without an outcome are there only where it was aborted.
create or replace function record_completion(of_batch bigint) returns void
language plpgsql volatile as $$
begin
    insert into completions (batch, generation, operation, url, status, success, failed, aborted, ended_at)
    select b.batch, b.generation, b.operation, b.on_done_url, b.status, coalesce(sum(t.success), 0), coalesce(sum(t.failed), 0),
           b.total - coalesce(sum(t.success + t.failed), 0), b.ended_at
    from batches b left join tallies t on t.batch = b.batch
    where b.batch = of_batch
    group by b.batch;
    perform tell('ended');
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
        perform record_completion(of_batch);
    end if;
end $$;
