-- R3, P1, P2: declaring a lease dead, and what becomes of its spans.

-- R3: declares the lease dead where it is as it was seen, then frees its spans. `p_cause`: lapsed, died or taken_over.
create or replace function recover(
    p_lease bigint, p_renewals bigint, p_seen_at bigint, p_cause text, p_judge bigint, p_at bigint,
    out recovered boolean, out lines bigint, out failed bigint
)
language plpgsql volatile as $$
#variable_conflict use_column
declare
    v_now bigint;
    v_renew_us bigint;
    v_detail text := replace(p_cause, '_', ' ');
    v_batch bigint;
    v_exclusive bigint[] := '{}';
    v_span spans;
    v_failed_in bigint[] := '{}';
begin
    perform begin_request();
    recovered := false;
    -- A claim under this lease that is under way comes first, or finds the lease dead. The lock is a statement of its own.
    select l.renew_ms * 1000 into v_renew_us
    from leases l
    where l.lease = p_lease and l.state = 'live' and l.renewals = p_renewals
    for update;
    if not found then
        return;
    end if;
    v_now := store_time(p_at);
    -- r3_still_fresh: an act on silence grows old, a known death does not.
    if p_cause <> 'died'
       and not (v_now >= p_seen_at and v_now - p_seen_at <= greatest(greatest(v_renew_us / 4, 20000) * 2, 250000)) then
        return;
    end if;
    -- T1: batches by id, spans by token. O4: a line that ran alone may fail, and end its batch.
    v_exclusive := (
        select lock_for_outcomes(
            p_lease, array_agg(s.batch), array_agg(s.token), array_agg(case when s.alone then s.line_count else 0 end)
        )
        from spans s where s.lease = p_lease
    );
    v_now := store_time(p_at);
    update leases l
    set state = case p_cause when 'taken_over' then 'taken_over' else 'dead' end, ended_at = v_now, ended_by = p_judge
    where l.lease = p_lease and l.state = 'live' and l.renewals = p_renewals;
    perform stopped_lease(p_lease);
    perform free_calls(p_lease, true, v_now);
    recovered := true;
    lines := 0;
    failed := 0;

    -- P2: a line that ran alone was in a death.
    for v_span in select * from spans s where s.lease = p_lease and s.alone order by s.batch, s.token loop
        if recover_crashed(p_lease, p_judge, v_detail, v_span, v_now) then
            failed := failed + 1;
            v_failed_in := v_failed_in || v_span.batch;
        else
            lines := lines + v_span.line_count;
        end if;
    end loop;

    lines := lines + coalesce((select sum(s.line_count) from spans s where s.lease = p_lease), 0);
    -- P2: suspect from the first death on; halves at every further one (p2_after_end, p2_halves).
    with held as (
        delete from spans s where s.lease = p_lease
        returning s.token, s.batch, s.lines, s.line_count, s.suspicion, s.tried
    ), part as (
        select h.*, p.place, p.lines as part_lines
        from held h
        cross join lateral (
            select case when h.suspicion = 0 then h.lines else first_lines(h.lines, (h.line_count + 1) / 2) end as head
        ) half
        cross join lateral (values (1, half.head), (2, h.lines - half.head)) p (place, lines)
        where not isempty(p.lines)
    ), freed as (
        insert into spans (token, batch, lines, line_count, first_line, suspicion, tried, from_lease)
        select nextval('tokens'), batch, part_lines, count_lines(part_lines), lower(part_lines), suspicion + 1, tried, p_lease
        from (select * from part order by batch, token, place) in_order
    )
    insert into attempts (batch, generation, first_line, last_line, token, kind, lease, judge, detail, at)
    select h.batch, (select b.generation from batches b where b.batch = h.batch), lower(r), upper(r) - 1, h.token,
           'recovered', p_lease, p_judge, v_detail, v_now
    from held h cross join lateral unnest(h.lines) r
    order by h.batch, h.token, r;
    if lines > 0 then
        perform tell('');
    end if;
    foreach v_batch in array v_exclusive loop
        if v_batch = any (v_failed_in) then
            perform end_batch_if_finished(v_batch, v_now);
        end if;
    end loop;
end $$;

-- P2: a line that ran alone when its lease ended. Crashed too often, it fails; else it is free again. Whether it failed.
create or replace function recover_crashed(p_lease bigint, p_judge bigint, p_detail text, p_span spans, p_now bigint)
returns boolean
language plpgsql volatile as $$
#variable_conflict use_column
declare
    v_line bigint := lower((p_span).lines);
    v_generation integer;
    v_crashes_max bigint;
    v_crashes integer;
    v_kind text;
begin
    select b.generation, b.crashes_max into v_generation, v_crashes_max from batches b where b.batch = (p_span).batch;
    insert into attempts (batch, generation, first_line, last_line, token, kind, lease, judge, detail, at)
    values ((p_span).batch, v_generation, v_line, v_line, (p_span).token, 'crashed', p_lease, p_judge, p_detail, p_now);
    v_crashes := crashes_counted((p_span).batch, v_line);
    delete from spans s where s.token = (p_span).token and coalesce(s.lease, -1) = p_lease;
    -- p2_after_crash
    if v_crashes >= v_crashes_max then
        insert into outcomes (batch, line, status, error, token, lease, attempts, crashes, generation, run_us, recorded_at)
        values ((p_span).batch, v_line, 'failed',
                format('its worker died %s times while it ran this row and no other', v_crashes),
                nextval('tokens'), p_lease, attempts_used((p_span).batch, v_line), v_crashes,
                v_generation, 0, p_now);
        insert into tallies as t (batch, lease, failed) values ((p_span).batch, coalesce(p_judge, 0), 1)
        on conflict (batch, lease) do update set failed = t.failed + 1;
        return true;
    end if;
    insert into spans (token, batch, lines, line_count, first_line, suspicion, tried, from_lease)
    values (nextval('tokens'), (p_span).batch, (p_span).lines, 1, v_line, (p_span).suspicion + 1, true, p_lease);
    insert into attempts (batch, generation, first_line, last_line, token, kind, lease, judge, detail, at)
    values ((p_span).batch, v_generation, v_line, v_line, (p_span).token, 'recovered', p_lease, p_judge, p_detail, p_now);
    return false;
end $$;

-- P1: a worker that was declared dead while alive takes its crashes back.
create or replace function withdraw_crashes(p_lease bigint, p_at bigint) returns void
language plpgsql volatile as $$
#variable_conflict use_column
begin
    perform begin_request();
    if exists (select from leases l where l.lease = p_lease and l.state = 'live') then
        return;
    end if;
    -- S6: one that is being purged is not there any more.
    perform 1 from batches b
    where b.batch in (select a.batch from attempts a where a.lease = p_lease and a.kind = 'crashed')
    order by b.batch for key share;
    insert into attempts (batch, generation, first_line, last_line, token, kind, lease, at)
    select a.batch, a.generation, a.first_line, a.last_line, a.token, 'crash_withdrawn', a.lease, store_time(p_at)
    from attempts a join batches b on b.batch = a.batch
    where a.lease = p_lease and a.kind = 'crashed'
      and exists (select from leases l where l.lease = p_lease and l.state <> 'live')
    order by a.attempt
    on conflict do nothing;
end $$;
