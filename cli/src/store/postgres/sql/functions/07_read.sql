-- What people see. Each function is STABLE: all its statements read the one snapshot of the statement that calls it. None
-- takes a lock, and none scans the rows.

-- One batch by its number, or by its key, or all of them.
create or replace function batch_views(p_batch bigint, p_key text) returns setof batches
language plpgsql stable as $$
#variable_conflict use_column
begin
    if p_batch is not null then
        return query select * from batches b where b.batch = p_batch;
    elsif p_key is not null then
        return query select * from batches b where b.key = p_key;
    else
        return query select * from batches b order by b.created_at desc, b.batch;
    end if;
end $$;

-- The batches whose id begins so.
create or replace function batches_with_prefix(p_prefix text, p_limit bigint) returns setof bigint
language plpgsql stable as $$
#variable_conflict use_column
begin
    return query
        select b.batch from batches b
        where b.id >= p_prefix and b.id < p_prefix || '~'
        order by b.id
        limit p_limit;
end $$;

-- A batch's counts: from tallies, held spans and the deaths in the log; however many rows there are.
create or replace function batch_counts(p_batch bigint, p_at bigint)
returns table (
    now_us bigint, success bigint, failed bigint, retried bigint, timed_out bigint, fenced bigint, inprog bigint,
    crashed bigint, withdrawn bigint, recovered bigint, next_not_before bigint
)
language plpgsql stable as $$
#variable_conflict use_column
declare
    v_now bigint := store_time(p_at);
begin
    return query
        select v_now, t.success, t.failed, t.retried, t.timed_out, t.fenced,
               (select coalesce(sum(s.line_count), 0)::bigint from spans s where s.batch = p_batch and s.lease is not null),
               d.crashed, d.withdrawn, d.recovered,
               (select s.not_before from spans s
                where s.batch = p_batch and s.lease is null and coalesce(s.not_before, 0) > v_now
                order by coalesce(s.not_before, 0) limit 1)
        from (
            select coalesce(sum(t.success), 0)::bigint as success, coalesce(sum(t.failed), 0)::bigint as failed,
                   coalesce(sum(t.retried), 0)::bigint as retried, coalesce(sum(t.timed_out), 0)::bigint as timed_out,
                   coalesce(sum(t.fenced), 0)::bigint as fenced
            from tallies t where t.batch = p_batch
        ) t
        cross join (
            select count(*) filter (where a.kind = 'crashed') as crashed,
                   count(*) filter (where a.kind = 'crash_withdrawn') as withdrawn,
                   coalesce(sum(a.last_line - a.first_line + 1) filter (where a.kind = 'recovered'), 0)::bigint as recovered
            from attempts a
            where a.batch = p_batch and a.kind in ('crashed', 'crash_withdrawn', 'recovered')
        ) d;
end $$;

-- A batch and its counts, of one moment.
create or replace function batch_status(p_batch bigint, p_at bigint)
returns table (
    batch bigint, key text, digest text, operation text, status text, held boolean, priority integer, total bigint,
    cursor bigint, generation integer, attempts_max bigint, crashes_max bigint, timeout_ms bigint, header text, source text,
    created_at bigint, loaded_at bigint, ended_at bigint,
    now_us bigint, success bigint, failed bigint, retried bigint, timed_out bigint, fenced bigint, inprog bigint,
    crashed bigint, withdrawn bigint, recovered bigint, next_not_before bigint
)
language plpgsql stable as $$
#variable_conflict use_column
begin
    return query
        select b.batch, b.key, b.digest, b.operation, b.status, b.held, b.priority, b.total, b.cursor, b.generation,
               b.attempts_max, b.crashes_max, b.timeout_ms, b.header, b.source, b.created_at, b.loaded_at, b.ended_at, c.*
        from batches b cross join batch_counts(p_batch, p_at) c
        where b.batch = p_batch;
end $$;

-- The live leases, then those that ended at this time or later, the latest first; with the lines that each holds.
create or replace function worker_views(p_ended_since bigint)
returns table (
    lease bigint, worker text, stable_name boolean, state text, ttl_ms bigint, renew_ms bigint, expires_at bigint,
    renewals bigint, machine text, pid bigint, start_ticks bigint, operations text, taken_at bigint, ended_at bigint,
    ended_by bigint, held_batches bigint[], held_lines text[]
)
language plpgsql stable as $$
#variable_conflict use_column
begin
    return query
        select l.lease, l.worker, l.stable_name, l.state, l.ttl_ms, l.renew_ms, l.expires_at, l.renewals, l.machine, l.pid,
               l.start_ticks, l.operations, l.taken_at, l.ended_at, l.ended_by, h.batches, h.lines
        from leases l
        cross join lateral (
            select array_agg(s.batch order by s.batch, s.token) as batches, array_agg(s.lines::text order by s.batch, s.token) as lines
            from spans s where s.lease = l.lease
        ) h
        where l.state = 'live' or l.ended_at >= p_ended_since
        order by l.state <> 'live', l.ended_at desc nulls last, l.worker, l.lease;
end $$;

-- Rows in order, a page at a time: those after this line, all or of one status.
create or replace function row_page(p_batch bigint, p_status text, p_after bigint, p_limit bigint)
returns table (
    line bigint, input text, status text, result text, error text, token bigint, lease bigint, worker text,
    attempts integer, crashes integer, run_us bigint, recorded_at bigint
)
language plpgsql stable as $$
#variable_conflict use_column
declare
    v_batch batches;
    v_held int8multirange := '{}';
    v_free int8multirange;
    v_lines int8multirange;
    v_open text := 'queued';
begin
    select * into v_batch from batches b where b.batch = p_batch and b.status <> 'loading';
    if not found then
        return;
    end if;
    if v_batch.status = 'aborted' then
        v_open := 'aborted';
    elsif v_batch.status = 'open' then
        select coalesce(range_agg(r), '{}') into v_held
        from spans s cross join lateral unnest(s.lines) r where s.batch = p_batch and s.lease is not null;
    end if;

    if p_status in ('success', 'failed') then
        return query select * from result_page(p_batch, p_status, p_after, p_limit);
    elsif p_status is null then
        return query
            select r.line, r.input,
                   coalesce(o.status, case when v_held @> r.line then 'inprog' else v_open end),
                   o.result, o.error, o.token, o.lease, w.worker, o.attempts, o.crashes, o.run_us, o.recorded_at
            from (
                select p.line, p.input from rows p
                where p.batch = p_batch and p.line > p_after and p.line <= v_batch.total
                order by p.line limit p_limit
            ) r
            left join lateral (
                select * from outcomes o where o.batch = p_batch and o.line = r.line offset 0
            ) o on true
            left join lateral (select w.worker from leases w where w.lease = o.lease offset 0) w on true
            order by r.line;
    elsif p_status = 'aborted' then
        if v_open = 'aborted' then
            return query
                select r.line, r.input, 'aborted', null::text, null::text, null::bigint, null::bigint, null::text,
                       null::integer, null::integer, null::bigint, null::bigint
                from rows r
                where r.batch = p_batch and r.line > p_after and r.line <= v_batch.total
                  and (select o.token from outcomes o where o.batch = p_batch and o.line = r.line) is null
                order by r.line limit p_limit;
        end if;
    else
        v_lines := v_held;
        if p_status = 'queued' and v_batch.status = 'open' then
            select coalesce(range_agg(r), '{}') into v_free
            from spans s cross join lateral unnest(s.lines) r where s.batch = p_batch and s.lease is null;
            v_lines := v_free + int8multirange(int8range(v_batch.cursor, v_batch.total + 1));
        end if;
        v_lines := first_lines(v_lines * int8multirange(int8range(p_after + 1, null)), p_limit);
        return query
            select r.line, r.input, p_status, null::text, null::text, null::bigint, null::bigint, null::text,
                   null::integer, null::integer, null::bigint, null::bigint
            from unnest(v_lines) range
            cross join lateral (
                select p.line, p.input from rows p
                where p.batch = p_batch and p.line between lower(range) and upper(range) - 1 offset 0
            ) r
            order by r.line;
    end if;
end $$;

-- Rows that have an outcome, in order, a page at a time; of one status or of both.
create or replace function result_page(p_batch bigint, p_status text, p_after bigint, p_limit bigint)
returns table (
    line bigint, input text, status text, result text, error text, token bigint, lease bigint, worker text,
    attempts integer, crashes integer, run_us bigint, recorded_at bigint
)
language plpgsql stable as $$
#variable_conflict use_column
begin
    -- S6: one that is being purged is not there any more.
    if not exists (select from batches b where b.batch = p_batch) then
        return;
    end if;
    return query
        select o.line, r.input, o.status, o.result, o.error, o.token, o.lease, w.worker, o.attempts, o.crashes,
               o.run_us, o.recorded_at
        from (
            (select * from outcomes f
             where f.batch = p_batch and f.line > p_after and f.status = 'failed' and p_status = 'failed'
             order by f.line limit p_limit)
            union all
            (select * from outcomes a
             where a.batch = p_batch and a.line > p_after and p_status is distinct from 'failed'
               and (p_status is null or a.status = p_status)
             order by a.line limit p_limit)
        ) o
        cross join lateral (select r.input from rows r where r.batch = p_batch and r.line = o.line offset 0) r
        left join lateral (select w.worker from leases w where w.lease = o.lease offset 0) w on true
        order by o.line;
end $$;

-- How many rows have failed: all, or those whose error contains this text, as `take_outcomes` finds them.
create or replace function failed_rows(p_batch bigint, p_text text, out failed bigint)
language plpgsql stable as $$
#variable_conflict use_column
begin
    select count(*) into failed from outcomes o
    where o.batch = p_batch and o.status = 'failed' and (p_text is null or strpos(o.error, p_text) > 0);
end $$;

-- What failed rows failed with, in order, a page at a time.
create or replace function error_page(p_batch bigint, p_after bigint, p_limit bigint) returns table (line bigint, error text)
language plpgsql stable as $$
#variable_conflict use_column
begin
    return query
        select o.line, coalesce(o.error, '') from outcomes o
        where o.batch = p_batch and o.line > p_after and o.status = 'failed'
        order by o.line
        limit p_limit;
end $$;

-- S2: aborted batches of which something may still run.
create or replace function stopping_batches() returns setof bigint
language plpgsql stable as $$
begin
    return query select distinct s.batch from stopping s order by s.batch;
end $$;

-- S2: which live leases may still run rows of an aborted batch, and how many.
create or replace function stopping_of(p_batch bigint, p_at bigint)
returns table (
    worker text, expires_at bigint, machine text, pid bigint, start_ticks bigint, line_count bigint, now_us bigint
)
language plpgsql stable as $$
#variable_conflict use_column
begin
    return query
        select l.worker, l.expires_at, l.machine, l.pid, l.start_ticks, s.line_count, store_time(p_at)
        from (
            select t.lease, sum(t.line_count)::bigint as line_count from stopping t where t.batch = p_batch group by t.lease
        ) s
        join leases l on l.lease = s.lease and l.state = 'live'
        order by l.worker, l.lease;
end $$;

-- Inputs in order, a page at a time.
create or replace function input_page(p_batch bigint, p_after bigint, p_limit bigint) returns table (line bigint, input text)
language plpgsql stable as $$
#variable_conflict use_column
begin
    return query
        select r.line, r.input from rows r
        where r.batch = p_batch and r.line > p_after
          and r.line <= (select b.total from batches b where b.batch = p_batch)
        order by r.line
        limit p_limit;
end $$;

-- Everything known of one row: the row, its log as arrays with one place per entry, and the span that has it.
create or replace function row_story(p_batch bigint, p_line bigint, p_at bigint)
returns table (
    line bigint, input text, status text, result text, error text, token bigint, lease bigint, worker text,
    attempts integer, crashes integer, run_us bigint, recorded_at bigint,
    now_us bigint, ats bigint[], kinds text[], generations integer[], tokens bigint[], leases bigint[], workers text[],
    judges bigint[], details text[], runs_us bigint[],
    span_token bigint, span_lease bigint, span_worker text, span_not_before bigint, span_suspicion integer
)
language plpgsql stable as $$
#variable_conflict use_column
declare
    v_now bigint := store_time(p_at);
begin
    return query
        select r.*, v_now, e.*, s.token, s.lease, s.worker, s.not_before, s.suspicion
        from row_page(p_batch, null, p_line - 1, 1) r
        cross join lateral (
            select array_agg(a.at order by a.at, a.attempt), array_agg(a.kind order by a.at, a.attempt),
                   array_agg(a.generation order by a.at, a.attempt), array_agg(a.token order by a.at, a.attempt),
                   array_agg(a.lease order by a.at, a.attempt),
                   array_agg((select w.worker from leases w where w.lease = a.lease) order by a.at, a.attempt),
                   array_agg(a.judge order by a.at, a.attempt), array_agg(a.detail order by a.at, a.attempt),
                   array_agg(a.run_us order by a.at, a.attempt)
            from (
                select * from attempts one where one.batch = p_batch and one.first_line = p_line
                union all
                select * from attempts several
                where several.batch = p_batch and several.first_line < p_line and several.last_line >= p_line
                  and several.last_line > several.first_line
            ) a
        ) e
        left join lateral (
            select s.token, s.lease, (select w.worker from leases w where w.lease = s.lease) as worker, s.not_before, s.suspicion
            from (
                select * from spans held where held.batch = p_batch and held.lease is not null
                union all
                select * from spans free where free.batch = p_batch and free.lease is null and free.first_line <= p_line
            ) s
            where r.token is null and s.lines @> p_line
        ) s on true
        where r.line = p_line;
end $$;
