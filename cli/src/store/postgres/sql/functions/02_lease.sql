-- L, S1, R2: taking, renewing and dropping a lease; what judges see of leases.

-- L1, R5: takes a lease, once per id. `outcome`: taken, ended, or name_held with the holder in the other columns.
create or replace function take_lease(
    p_lease bigint, p_id text, p_worker text, p_stable_name boolean, p_ttl_ms bigint, p_renew_ms bigint,
    p_machine text, p_pid bigint, p_start_ticks bigint, p_operations text, p_at bigint,
    p_calls text default null,
    out outcome text, out now_us bigint, out lease bigint, out worker text, out ttl_ms bigint, out renew_ms bigint,
    out expires_at bigint, out renewals bigint, out machine text, out pid bigint, out start_ticks bigint
)
language plpgsql volatile as $$
#variable_conflict use_column
declare
    v_state text;
begin
    perform begin_request();
    -- Another's take of the same id or name may be under way: the insert waits for it, then what it did is looked at.
    loop
        select l.state into v_state from leases l where l.lease = p_lease;
        if found then
            outcome := case v_state when 'live' then 'taken' else 'ended' end;
            return;
        end if;
        now_us := store_time(p_at);
        if p_stable_name then
            select l.lease, l.worker, l.ttl_ms, l.renew_ms, l.expires_at, l.renewals, l.machine, l.pid, l.start_ticks
            into lease, worker, ttl_ms, renew_ms, expires_at, renewals, machine, pid, start_ticks
            from leases l
            where l.worker = p_worker and l.state = 'live' and l.stable_name
            -- R2: this is a look as well, answered only where the holder could have renewed.
            for no key update;
            if found then
                outcome := 'name_held';
                return;
            end if;
        end if;
        insert into leases (lease, id, worker, stable_name, ttl_ms, renew_ms, expires_at, state,
                            machine, pid, start_ticks, operations, taken_at, calls)
        values (p_lease, p_id, p_worker, p_stable_name, p_ttl_ms, p_renew_ms, now_us + p_ttl_ms * 1000, 'live',
                p_machine, p_pid, p_start_ticks, p_operations, now_us, p_calls)
        on conflict do nothing;
        if found then
            insert into lease_claims (lease, number) values (p_lease, 0) on conflict do nothing;
            -- R1: judges of the same machine are to know of it before its process can die.
            perform tell('lease');
            outcome := 'taken';
            return;
        end if;
    end loop;
end $$;

-- L2: extends the lease while it is live, past its time too. `closed`: those of the asked batches that are not open (S2).
create or replace function renew(
    p_lease bigint, p_batches bigint[], p_at bigint,
    out renewed boolean, out taken_over boolean, out closed bigint[]
)
language plpgsql volatile as $$
#variable_conflict use_column
declare
    v_state text;
begin
    perform begin_request();
    select l.state into v_state from leases l where l.lease = p_lease for no key update;
    renewed := coalesce(v_state = 'live', false);
    taken_over := coalesce(v_state = 'taken_over', false);
    if not renewed then
        return;
    end if;
    update leases l
    set expires_at = store_time(p_at) + l.ttl_ms * 1000, renewals = l.renewals + 1
    where l.lease = p_lease and l.state = 'live';
    closed := array(
        select asked.batch
        from unnest(p_batches) with ordinality asked (batch, place)
        where (select b.status from batches b where b.batch = asked.batch) is distinct from 'open'
        order by asked.place
    );
end $$;

-- S1: frees whatever the lease holds, known to its worker or not, and drops it.
create or replace function drop_lease(p_lease bigint, p_at bigint) returns void
language plpgsql volatile as $$
#variable_conflict use_column
declare
    v_now bigint;
begin
    perform begin_request();
    -- T1: lease, batches by id, spans by token. From here on no claim of this lease comes in between.
    perform 1 from leases l where l.lease = p_lease and l.state = 'live' for update;
    if not found then
        return;
    end if;
    perform 1 from batches b
    where b.batch = any (array(select s.batch from spans s where s.lease = p_lease))
    order by b.batch for key share;
    perform 1 from spans s where s.lease = p_lease order by s.token for update;
    v_now := store_time(p_at);
    update leases l set state = 'dropped', ended_at = v_now where l.lease = p_lease and l.state = 'live';
    perform stopped_lease(p_lease);
    perform free_calls(p_lease, false, v_now);
    with held as (
        delete from spans s where s.lease = p_lease
        returning s.token, s.batch, s.lines, s.line_count, s.suspicion, s.tried
    ), freed as (
        insert into spans (token, batch, lines, line_count, first_line, suspicion, tried)
        select nextval('tokens'), batch, lines, line_count, lower(lines), suspicion, tried
        from (select * from held order by token) in_order
    )
    insert into attempts (batch, generation, first_line, last_line, token, kind, lease, at)
    select h.batch, (select b.generation from batches b where b.batch = h.batch),
           lower(r), upper(r) - 1, h.token, 'given_back', p_lease, v_now
    from held h cross join lateral unnest(h.lines) r
    order by h.token, r;
    if found then
        perform tell('');
    end if;
end $$;

-- R2: all live leases, answered only where a renewal could have been. A look takes the table's lock of a renewal, and of
-- the leases that are late it locks the records against renewals, but not against other looks: that is written and committed
-- as a renewal is, so that a database that is read-only, full or cut off from its standby answers neither. A late lease
-- whose record somebody else has locked is left out: it is being renewed or ended just now, or nobody can renew it.
create or replace function look(
    p_at bigint,
    out now_us bigint, out not_before_max bigint, out leases bigint[], out workers text[], out ttl_ms bigint[],
    out renew_ms bigint[], out expires_at bigint[], out renewals bigint[], out machines text[], out pids bigint[],
    out start_ticks bigint[]
)
language plpgsql volatile as $$
#variable_conflict use_column
declare
    v_late bigint[];
    v_locked bigint[];
begin
    perform begin_request();
    lock table leases in row exclusive mode;
    now_us := store_time(p_at);
    -- r2_late_in
    v_late := array(
        select l.lease from leases l
        where l.state = 'live'
          and l.ttl_ms * 1000 - greatest(l.expires_at - now_us, 0) >= l.renew_ms * 1000 + l.ttl_ms * 1000 / 8
        order by l.lease
    );
    if cardinality(v_late) > 0 then
        v_locked := array(
            select l.lease from leases l where l.lease = any (v_late) and l.state = 'live'
            order by l.lease for share skip locked
        );
    end if;
    select array_agg(l.lease order by l.lease), array_agg(l.worker order by l.lease),
           array_agg(l.ttl_ms order by l.lease), array_agg(l.renew_ms order by l.lease),
           array_agg(l.expires_at order by l.lease), array_agg(l.renewals order by l.lease),
           array_agg(l.machine order by l.lease), array_agg(l.pid order by l.lease),
           array_agg(l.start_ticks order by l.lease)
    into leases, workers, ttl_ms, renew_ms, expires_at, renewals, machines, pids, start_ticks
    from leases l
    where l.state = 'live' and (l.lease <> all (v_late) or l.lease = any (v_locked));
    not_before_max := greatest(
        (select max(s.not_before) from spans s where s.lease is null and s.not_before is not null),
        (select max(c.not_before) from completions c
         where c.not_before is not null and c.delivered_at is null and c.lease is null)
    );
end $$;

-- R2: cuts back what lies further ahead than it ever may.
create or replace function cut_back(p_backoff_max_us bigint, p_at bigint) returns void
language plpgsql volatile as $$
#variable_conflict use_column
declare
    v_now bigint;
begin
    perform begin_request();
    -- In the order of all others: leases by id, spans as claims take them.
    perform 1 from leases l
    where l.state = 'live' and l.expires_at > store_time(p_at) + l.ttl_ms * 1000
    order by l.lease for no key update;
    perform 1 from spans s
    where s.lease is null and s.not_before is not null and s.not_before > store_time(p_at) + p_backoff_max_us
    order by s.batch, s.first_line for update;
    perform 1 from completions c
    where c.not_before is not null and c.delivered_at is null and c.lease is null
      and c.not_before > store_time(p_at) + p_backoff_max_us
    order by c.batch, c.generation for update;
    v_now := store_time(p_at);
    update leases l set expires_at = v_now + l.ttl_ms * 1000
    where l.state = 'live' and l.expires_at > v_now + l.ttl_ms * 1000;
    update spans s set not_before = v_now + p_backoff_max_us
    where s.lease is null and s.not_before is not null and s.not_before > v_now + p_backoff_max_us;
    update completions c set not_before = v_now + p_backoff_max_us
    where c.not_before is not null and c.delivered_at is null and c.lease is null and c.not_before > v_now + p_backoff_max_us;
end $$;
