-- C1 to C3, P2: claims. What could be taken is looked at without a lock first: an idle worker's question writes nothing.

-- p2_may_take_suspect, the quota: at most one worker in two works on suspects, and always one may.
create or replace function within_quota(p_lease bigint) returns boolean
language plpgsql volatile as $$
begin
    return (
        select (
            select count(distinct s.lease) from spans s
            where s.suspicion > 0 and coalesce(s.lease, -1) not in (-1, p_lease)
        ) < greatest((select count(*) from leases l where l.state = 'live') / 2, 1)
    );
end $$;

-- p2_may_take_range: a worker holds one suspect range at a time.
create or replace function holds_suspect(p_lease bigint) returns boolean
language plpgsql volatile as $$
begin
    return (
        select exists (select from spans s where s.lease = p_lease and coalesce(s.suspicion, 0) > 0)
    );
end $$;

-- P2: whether some free suspect waits at all; where there is none, the quota does not matter.
create or replace function suspects_wait() returns boolean
language plpgsql volatile as $$
begin
    return (
        select exists (select from spans s where s.suspicion > 0 and coalesce(s.lease, -1) = -1)
    );
end $$;

-- C3: the first batch, in the order of claims, that has something for this claim; none: null. With `p_alone` only a due
-- free suspect of one line counts.
create or replace function claimable_batch(
    p_operations text[], p_passed_by bigint[], p_alone boolean, p_may_take_range boolean, p_now bigint
) returns bigint
language plpgsql volatile as $$
begin
    return (
        select b.batch from batches b
        where b.status = 'open' and not b.held and b.operation = any (p_operations) and b.batch <> all (p_passed_by)
          and case when p_alone then exists (
                       select from spans s
                       where s.batch = b.batch and s.suspicion > 0 and coalesce(s.lease, -1) = -1 and s.line_count = 1
                         and coalesce(s.not_before, 0) <= p_now
                   )
                   else b.cursor <= b.total or exists (
                       select from spans s
                       where s.batch = b.batch and s.lease is null and coalesce(s.not_before, 0) <= p_now
                         and (s.suspicion = 0 or (p_may_take_range and s.line_count > 1))
                   )
              end
        order by b.priority desc, b.last_claim, b.batch
        limit 1
    );
end $$;

-- C1. `outcome`: granted, closed or lease_ended. Spans are arrays with one place per span. Their inputs are not among them: a
-- reply of megabytes is sent before the commit, and would keep the locks until the worker has received it (T2). It asks for
-- them afterwards (`claimed_rows`).
create or replace function claim(
    p_lease bigint, p_number bigint, p_operations text[], p_lines_max bigint, p_bytes_max bigint, p_idle boolean,
    p_at bigint,
    out outcome text, out suspect_waits boolean, out next_after_us bigint, out open_lines boolean,
    out batches bigint[], out tokens bigint[], out operations text[], out timeouts_ms bigint[], out suspicions integer[],
    out alone boolean[], out recovered_from text[], out lines text[]
)
language plpgsql volatile as $$
#variable_conflict use_column
declare
    v_state text;
    v_number bigint;
    v_now bigint;
    v_may_suspect boolean := false;
    v_nothing_else boolean := false;
    v_alone boolean;
    v_no_alone boolean := false;
    v_locked boolean := false;
    v_passed_by bigint[] := '{}';
    v_batch bigint;
    v_taken record;
    v_granted boolean := false;
begin
    perform begin_request();
    outcome := 'granted';
    suspect_waits := false;
    select l.state, (select c.number from lease_claims c where c.lease = l.lease) into v_state, v_number
    from leases l where l.lease = p_lease;
    if v_state is distinct from 'live' then
        outcome := 'lease_ended';
        return;
    end if;
    if v_number >= p_number then
        outcome := 'closed';
        return;
    end if;
    v_now := store_time(p_at);
    loop
        -- P2: whoever holds a suspect alone claims nothing until its outcome is known.
        if exists (select from spans s where s.lease = p_lease and s.alone) then
            open_lines := exists (
                select from batches b where b.status = 'open' and b.operation = any (p_operations)
            );
            return;
        end if;
        -- p2_may_work_on_suspects: beyond the quota, only who would stand idle.
        v_nothing_else := false;
        v_may_suspect := suspects_wait();
        if v_may_suspect and not within_quota(p_lease) then
            v_nothing_else := claimable_batch(p_operations, v_passed_by, false, false, v_now) is null;
            v_may_suspect := v_nothing_else;
        end if;
        v_alone := p_idle and v_may_suspect and not v_no_alone and not exists (select from spans s where s.lease = p_lease);
        v_batch := null;
        if v_alone then
            v_batch := claimable_batch(p_operations, v_passed_by, true, true, v_now);
        end if;
        if v_batch is null then
            v_alone := false;
            -- Who asks for no lines is told only what waits.
            exit when p_lines_max = 0;
            v_batch := claimable_batch(
                p_operations, v_passed_by, false, v_may_suspect and not holds_suspect(p_lease), v_now
            );
        end if;
        exit when v_batch is null;

        if not v_locked then
            -- C1: recovery waits for this lock, renewal does not. Recovery came first: the lease is not live any more.
            perform 1 from leases l where l.lease = p_lease and l.state = 'live' for key share;
            if not found then
                outcome := 'lease_ended';
                return;
            end if;
            -- C2: another claim of this lease may have been under way: it is over now, and what it took is looked at.
            update lease_claims c set number = p_number where c.lease = p_lease and c.number < p_number;
            if not found then
                outcome := 'closed';
                return;
            end if;
            v_locked := true;
            -- The commit lets the locks go without waiting for the disk. The claim is on it before anybody works on what it took
            -- (`claimed_rows`, `settle_claim`), and whatever builds on it comes later in the log.
            perform set_config('synchronous_commit', 'off', true);
            -- A batch that is busy for longer (a retry of very many rows) is passed by, too: others are not to wait for it.
            if current_setting('lock_timeout')::interval > interval '1 s' then
                perform set_config('lock_timeout', '1s', true);
            end if;
            -- What this lease holds is looked at again where it matters.
            continue when v_may_suspect or exists (select from spans s where s.lease = p_lease and s.alone);
        end if;

        -- A batch of which another took the last in the meantime is passed by; its lock is let go with the block, since
        -- the next one may come before it in lock order (T1).
        begin
            v_taken := take_from_batch(p_lease, p_number, v_batch, p_lines_max, p_bytes_max, v_alone, v_nothing_else, v_now);
            if v_taken.tokens is null then
                raise exception 'nothing left' using errcode = 'FP001';
            end if;
            v_granted := true;
            exit;
        exception when sqlstate 'FP001' or lock_not_available then
            if v_alone then
                -- Another was faster, or the quota is used up: the batch may have more.
                v_no_alone := true;
            else
                v_passed_by := v_passed_by || v_batch;
            end if;
        end;
    end loop;

    if v_granted then
        batches := array_fill(v_batch, array[cardinality(v_taken.tokens)]);
        tokens := v_taken.tokens;
        operations := array_fill(v_taken.operation, array[cardinality(v_taken.tokens)]);
        timeouts_ms := array_fill(v_taken.timeout_ms, array[cardinality(v_taken.tokens)]);
        suspicions := v_taken.suspicions;
        alone := array_fill(v_alone, array[cardinality(v_taken.tokens)]);
        recovered_from := v_taken.recovered_from;
        lines := v_taken.lines;
    end if;
    suspect_waits := v_may_suspect and not (v_alone and v_granted) and exists (
        select from batches b
        where b.status = 'open' and not b.held and b.operation = any (p_operations) and exists (
            select from spans s
            where s.batch = b.batch and s.suspicion > 0 and coalesce(s.lease, -1) = -1 and s.line_count = 1
              and coalesce(s.not_before, 0) <= v_now
            offset 0
        )
    );
    if not v_granted then
        next_after_us := (
            select min(s.not_before) - v_now
            from batches b
            cross join lateral (
                select w.not_before from spans w
                where w.batch = b.batch and w.lease is null and coalesce(w.not_before, 0) > v_now
                order by coalesce(w.not_before, 0) limit 1
            ) s
            where b.status = 'open' and not b.held and b.operation = any (p_operations)
        );
    end if;
    open_lines := exists (select from batches b where b.status = 'open' and b.operation = any (p_operations));
end $$;

-- Takes lines of one batch: due free spans by first line, then fresh lines, while lines and bytes are left; with `p_alone`
-- the first due free suspect of one line and nothing else. `tokens` is null where there is nothing.
create or replace function take_from_batch(
    p_lease bigint, p_number bigint, p_batch bigint, p_lines_max bigint, p_bytes_max bigint, p_alone boolean,
    p_nothing_else boolean, p_now bigint,
    out tokens bigint[], out operation text, out timeout_ms bigint, out suspicions integer[], out recovered_from text[],
    out lines text[]
)
language plpgsql volatile as $$
#variable_conflict use_column
declare
    v_cursor bigint;
    v_total bigint;
    v_input_bytes_max bigint;
    v_may_suspect boolean := false;
    v_due bigint[];
    v_left bigint := greatest(p_lines_max, 1);
    v_free spans[] := '{}';
    v_heads int8multirange[] := '{}';
    v_counts bigint[] := '{}';
    v_span spans;
    v_count bigint;
    v_fresh bigint := 0;
    v_found bigint;
    v_bytes bigint;
    v_token bigint;
begin
    -- One claim of a batch at a time, as each moves its last claim: what is free is looked at when the one before is over.
    -- Records with fresh lines left (for key share) do not wait for this; the batch's end and its abort (for update) do.
    select b.operation, b.timeout_ms, b.cursor, b.total, b.input_bytes_max
    into operation, timeout_ms, v_cursor, v_total, v_input_bytes_max
    from batches b
    where b.batch = p_batch and b.status = 'open' and not b.held
    for no key update;
    if not found then
        return;
    end if;

    if exists (select from spans s where s.batch = p_batch and s.lease is null) then
        if suspects_wait() then
            -- P2: the quota is counted by one claim at a time.
            perform pg_advisory_xact_lock('spans'::regclass::oid::integer, 1);
            v_may_suspect := p_nothing_else or within_quota(p_lease);
        end if;
        if p_alone and not v_may_suspect then
            return;
        end if;
        v_due := due_spans(p_batch, p_alone, v_may_suspect and not holds_suspect(p_lease), p_now);
        for v_span in
            select * from spans s
            where s.token = any (v_due) and coalesce(s.lease, -1) = -1
            order by s.first_line
            for update
        loop
            exit when v_left = 0;
            -- p2_lines_to_take: never a single line out of several suspects.
            v_count := case when v_span.suspicion > 0 and v_span.line_count > 1
                            then least(greatest(v_left, 2), v_span.line_count)
                            else least(v_left, v_span.line_count) end;
            v_free := v_free || v_span;
            v_heads := v_heads || case when v_count = v_span.line_count then v_span.lines
                                       else first_lines(v_span.lines, v_count) end;
            v_counts := v_counts || v_count;
            v_left := greatest(v_left - v_count, 0);
        end loop;
    end if;
    if not p_alone then
        v_fresh := least(v_left, v_total - v_cursor + 1);
    end if;
    if cardinality(v_free) = 0 and v_fresh = 0 then
        return;
    end if;

    -- c3_rows_within_bytes: the first row always fits. The rows are looked at only where the batch's largest might not fit so
    -- many times.
    v_count := v_fresh + (select coalesce(sum(c), 0) from unnest(v_counts) c);
    if v_count * v_input_bytes_max > p_bytes_max then
        select count(*), coalesce(sum(octet_length(r.input)), 0) into v_found, v_bytes
        from lines_in_order(v_heads, v_cursor, v_fresh) o
        cross join lateral (
            select r.input from rows r where r.batch = p_batch and r.line between o.first and o.last offset 0
        ) r;
        if v_found <> v_count then
            raise exception 'batch % lacks rows', p_batch using errcode = 'data_corrupted';
        end if;
    end if;
    if v_bytes > p_bytes_max then
        select greatest(count(*) filter (where sized.bytes <= p_bytes_max), 1) into v_left
        from (
            select sum(octet_length(r.input)) over (order by o.place, r.line) as bytes
            from lines_in_order(v_heads, v_cursor, v_fresh) o
            cross join lateral (
                select r.line, r.input from rows r where r.batch = p_batch and r.line between o.first and o.last offset 0
            ) r
        ) sized;
        for i in 1 .. cardinality(v_heads) loop
            if v_left = 0 then
                v_free := v_free[1:i - 1];
                v_heads := v_heads[1:i - 1];
                v_counts := v_counts[1:i - 1];
                exit;
            end if;
            v_count := least(v_counts[i], v_left);
            v_left := v_left - v_count;
            -- A suspect takes two lines whatever their size.
            if (v_free[i]).suspicion > 0 and not p_alone then
                v_count := greatest(v_count, 2);
            end if;
            v_heads[i] := first_lines(v_heads[i], v_count);
            v_counts[i] := v_count;
        end loop;
        v_fresh := least(v_fresh, v_left);
    end if;

    -- C1: span, lease and token together; T3: each drawn under the locks, a remainder after the part that was taken.
    tokens := '{}';
    suspicions := '{}';
    recovered_from := '{}';
    lines := '{}';
    if cardinality(v_free) > 0 then
        delete from spans s
        where s.token = any (array(select f.token from unnest(v_free) f)) and coalesce(s.lease, -1) = -1;
        with part as (
            select f.*, t.place, p.part, p.part_lines, p.part_count
            from unnest(v_heads, v_counts) with ordinality t (head, count, place)
            cross join lateral (select (v_free[t.place::integer]).*) f
            cross join lateral (
                values (1, t.head, t.count), (2, f.lines - t.head, f.line_count - t.count)
            ) p (part, part_lines, part_count)
            where p.part_count > 0
        ), drawn as materialized (
            select nextval('tokens') as new_token, in_order.*
            from (select * from part order by place, part) in_order
        ), written as (
            insert into spans (token, batch, lines, line_count, first_line, lease, claim_number, not_before, suspicion, alone,
                               tried, from_lease)
            select new_token, p_batch, part_lines, part_count, lower(part_lines),
                   case part when 1 then p_lease end, case part when 1 then p_number end,
                   case part when 2 then not_before end, suspicion, p_alone and part = 1, tried, from_lease
            from drawn
        )
        select array_agg(new_token order by place), array_agg(suspicion order by place),
               array_agg((select l.worker from leases l where l.lease = from_lease) order by place),
               array_agg(part_lines::text order by place), max(new_token)
        into tokens, suspicions, recovered_from, lines, v_token
        from drawn
        where part = 1;
    end if;
    if v_fresh > 0 then
        v_token := nextval('tokens');
        insert into spans (token, batch, lines, line_count, first_line, lease, claim_number)
        values (v_token, p_batch, int8multirange(int8range(v_cursor, v_cursor + v_fresh)), v_fresh, v_cursor, p_lease, p_number);
        tokens := tokens || v_token;
        suspicions := suspicions || 0;
        recovered_from := recovered_from || null::text;
        lines := lines || int8multirange(int8range(v_cursor, v_cursor + v_fresh))::text;
    end if;
    -- The cursor is a column, since a sequence would not roll back.
    update batches b set cursor = v_cursor + v_fresh, last_claim = v_token where b.batch = p_batch and b.status = 'open';
end $$;

-- C3: the batch's due free spans that this claim may take, the first 64 by line, one suspect range at most; with `p_alone` the first suspect of one
-- line. Where few are due they are found by their time and sorted; where many are, in the order of lines.
create or replace function due_spans(p_batch bigint, p_alone boolean, p_may_take_range boolean, p_now bigint) returns bigint[]
language plpgsql volatile as $$
#variable_conflict use_column
declare
    c_spans_max constant integer := 64;
    c_few constant integer := 1000;
    v_tokens bigint[] := '{}';
    v_due integer;
    v_may_take_range boolean := p_may_take_range;
    v_span record;
begin
    if p_alone then
        return array(
            select s.token from spans s
            where s.batch = p_batch and s.suspicion > 0 and coalesce(s.lease, -1) = -1 and s.line_count = 1
              and coalesce(s.not_before, 0) <= p_now
            order by s.first_line limit 1
        );
    end if;
    v_due := (
        select count(*) from (
            select from spans s where s.batch = p_batch and s.lease is null and coalesce(s.not_before, 0) <= p_now
            limit c_few
        ) due
    );
    if v_due < c_few then
        return array(
            select due.token
            from (
                select found.*, row_number() over (partition by found.suspect order by found.first_line) as nth
                from (
                    select s.token, s.first_line, s.suspicion > 0 as suspect from spans s
                    where s.batch = p_batch and s.lease is null and coalesce(s.not_before, 0) <= p_now
                      and (s.suspicion = 0 or (p_may_take_range and s.line_count > 1))
                    offset 0
                ) found
            ) due
            where not due.suspect or due.nth = 1
            order by due.first_line limit c_spans_max
        );
    end if;
    for v_span in
        select s.token, s.suspicion, s.line_count, s.not_before from spans s
        where s.batch = p_batch and s.lease is null
        order by s.first_line
    loop
        if coalesce(v_span.not_before, 0) <= p_now
           and (v_span.suspicion = 0 or (v_may_take_range and v_span.line_count > 1)) then
            v_may_take_range := v_may_take_range and v_span.suspicion = 0;
            v_tokens := v_tokens || v_span.token;
            exit when cardinality(v_tokens) = c_spans_max;
        end if;
    end loop;
    return v_tokens;
end $$;

-- The ranges of a claim's lines in its order: those of the spans, then the fresh ones.
create or replace function lines_in_order(heads int8multirange[], fresh_from bigint, fresh bigint)
returns table (place bigint, first bigint, last bigint)
language sql immutable rows 4 as $$
    select row_number() over (order by h.place, r), lower(r), upper(r) - 1
    from unnest(heads) with ordinality h (lines, place) cross join lateral unnest(h.lines) r
    union all
    select 9223372036854775807, fresh_from, fresh_from + fresh - 1 where fresh > 0
$$;
