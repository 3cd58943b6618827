-- C2: settling a claim; and the rows of what was claimed.

-- C2: closes the claim's number, then reads what that claim took and the lease still holds.
create or replace function settle_claim(
    p_lease bigint, p_number bigint,
    out batches bigint[], out tokens bigint[], out operations text[], out timeouts_ms bigint[], out suspicions integer[],
    out alone boolean[], out recovered_from text[], out lines text[],
    out stopped_batches bigint[], out stopped_tokens bigint[], out stopped_lines text[]
)
language plpgsql volatile as $$
#variable_conflict use_column
declare
    v_state text;
begin
    perform begin_request();
    select l.state into v_state from leases l where l.lease = p_lease for key share;
    if not found then
        return;
    end if;
    -- Waits for the claim, if it is under way.
    insert into lease_claims as c (lease, number) values (p_lease, p_number)
    on conflict (lease) do update set number = greatest(c.number, excluded.number);
    if v_state <> 'live' then
        return;
    end if;
    select array_agg(s.batch order by s.token), array_agg(s.token order by s.token), array_agg(b.operation order by s.token),
           array_agg(b.timeout_ms order by s.token), array_agg(s.suspicion order by s.token), array_agg(s.alone order by s.token),
           array_agg((select l.worker from leases l where l.lease = s.from_lease) order by s.token),
           array_agg(s.lines::text order by s.token)
    into batches, tokens, operations, timeouts_ms, suspicions, alone, recovered_from, lines
    from spans s
    join batches b on b.batch = s.batch
    where s.lease = p_lease and s.claim_number = p_number;
    -- S2: what it took of batches that were aborted since is told, and the worker gives it back: this request may be an old one that
    -- comes late, when lines that it granted run. An abort that comes between these statements finds the granted tokens among those
    -- that are granted.
    select array_agg(t.batch order by t.token), array_agg(t.token order by t.token), array_agg(t.lines::text order by t.token)
    into stopped_batches, stopped_tokens, stopped_lines
    from stopping t
    where t.lease = p_lease and t.claim_number = p_number and t.token <> all (coalesce(tokens, '{}'));
end $$;

-- The inputs of spans that a claim took, by a request of its own that locks nothing: rows never change. Its commit waits until
-- the claim, too, is on the disk; for that it writes a message into the log, which nobody reads. `held` is false, and there is nothing
-- else, where the lease does not hold all of these spans any more: a server that failed in between may have forgotten the claim.
-- One place per row, in any order: `places` says whose it is, from 1 on; `attempts` is null where no row was tried.
create or replace function claimed_rows(
    p_lease bigint, p_tokens bigint[],
    out held boolean, out places bigint[], out lines bigint[], out inputs text[], out attempts integer[]
)
language plpgsql volatile as $$
#variable_conflict use_column
declare
    v_tried boolean;
begin
    perform begin_request();
    select count(*) = cardinality(p_tokens), bool_or(s.tried) into held, v_tried
    from spans s
    where s.token = any (p_tokens) and coalesce(s.lease, -1) = p_lease;
    if not held then
        return;
    end if;
    perform pg_logical_emit_message(true, 'fencepost', '');
    select array_agg(o.place), array_agg(r.line), array_agg(r.input),
           case when v_tried then array_agg(case when o.tried then attempts_used(o.batch, r.line) else 0 end) end
    into places, lines, inputs, attempts
    from (
        select t.place, s.batch, s.tried, lower(range) as first, upper(range) - 1 as last
        from unnest(p_tokens) with ordinality t (token, place)
        cross join lateral (
            select s.batch, s.tried, s.lines from spans s where s.token = t.token and coalesce(s.lease, -1) = p_lease offset 0
        ) s
        cross join lateral unnest(s.lines) range
    ) o
    cross join lateral (
        select r.line, r.input from rows r where r.batch = o.batch and r.line between o.first and o.last offset 0
    ) r;
    -- Asked again: an abort or a recovery that came between these statements may have been followed by a purge, and not all rows be there.
    select count(*) = cardinality(p_tokens) into held
    from spans s
    where s.token = any (p_tokens) and coalesce(s.lease, -1) = p_lease;
    if not held then
        places := null;
        lines := null;
        inputs := null;
        attempts := null;
    end if;
end $$;
