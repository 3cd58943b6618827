-- S6: purging. A batch is hidden in one transaction: its record moves from `batches` to `purges`. Whoever writes to a batch has at least
-- its shared lock and looks for it in a later statement, so that nothing is written to it from then on; its rows go in slices.

-- What there is to purge. `kind`: now (the moment that all is compared with), batch, begun, load, append.
create or replace function purgeable(
    p_ended_age_us bigint, p_load_age_us bigint, p_append_age_us bigint, p_at bigint
)
returns table (kind text, batch bigint, append bigint, line_count bigint, at_us bigint)
language plpgsql stable as $$
#variable_conflict use_column
declare
    v_now bigint := store_time(p_at);
    v_ended_before bigint := v_now - p_ended_age_us;
begin
    return query select 'now', null::bigint, null::bigint, null::bigint, v_ended_before;
    return query
        select 'batch', b.batch, null::bigint, b.total, b.ended_at from batches b
        where b.status in ('success', 'failed', 'aborted') and b.ended_at <= v_ended_before
        order by b.ended_at, b.batch;
    return query
        select 'begun', p.batch, null::bigint, greatest(p.line_count - p.gone_to, 0), null::bigint from purges p
        order by p.batch;
    -- loaded_at is when a load last moved, until it ends.
    return query
        select 'load', b.batch, null::bigint, b.total, null::bigint from batches b
        where b.status = 'loading' and coalesce(b.loaded_at, b.created_at) <= v_now - p_load_age_us
        order by b.batch;
    -- Those of a batch that goes as well go with it.
    return query
        select 'append', a.batch, a.append, a.line_count, null::bigint
        from appends a join batches b on b.batch = a.batch
        where a.status <> 'done' and a.moved_at <= v_now - p_append_age_us
          and not (b.status in ('success', 'failed', 'aborted') and b.ended_at <= v_ended_before)
        order by a.batch, a.append;
end $$;

-- s6_begin_purge: hides the batch. `outcome`: now, before, not_there, not_ended, ended_since, busy.
--
-- Of appends and completions only those are locked that nobody else has locked: a slice of an append has its record for as long as its
-- rows are on their way, and locks nothing else. One that comes later finds no batch.
create or replace function begin_purge(p_batch bigint, p_ended_before bigint, p_at bigint, out outcome text)
language plpgsql volatile as $$
#variable_conflict use_column
declare
    v_status text;
    v_ended_at bigint;
    v_locked bigint;
begin
    perform begin_request();
    perform 1 from batches b where b.batch = p_batch for update;
    select b.status, b.ended_at into v_status, v_ended_at from batches b where b.batch = p_batch;
    if not found then
        outcome := case when exists (select from purges p where p.batch = p_batch) then 'before' else 'not_there' end;
        return;
    end if;
    if v_status not in ('success', 'failed', 'aborted')
        or exists (select from spans s where s.batch = p_batch and s.lease is null)
        or exists (select from spans s where s.batch = p_batch and s.lease is not null)
    then
        outcome := 'not_ended';
        return;
    end if;
    if v_ended_at is null or v_ended_at > p_ended_before then
        outcome := 'ended_since';
        return;
    end if;
    outcome := 'busy';
    perform 1 from appends a where a.batch = p_batch and a.status <> 'done' for update skip locked;
    get diagnostics v_locked = row_count;
    if v_locked <> (select count(*) from appends a where a.batch = p_batch and a.status <> 'done') then
        return;
    end if;
    perform 1 from completions c where c.batch = p_batch for update skip locked;
    get diagnostics v_locked = row_count;
    if v_locked <> (select count(*) from completions c where c.batch = p_batch)
        or exists (select from completions c where c.batch = p_batch and c.lease is not null and c.delivered_at is null)
        or exists (select from stopping s where s.batch = p_batch)
    then
        return;
    end if;

    insert into purges (batch, line_count, last_line, began_at)
    select b.batch, b.total,
           greatest(b.total, (select r.line from rows r where r.batch = p_batch order by r.line desc limit 1)),
           store_time(p_at)
    from batches b
    where b.batch = p_batch;
    -- Nobody calls for its end any more.
    delete from completions c where c.batch = p_batch;
    delete from batches b where b.batch = p_batch;
    outcome := 'now';
end $$;

-- s6_slice: removes so many lines, and with the last ones all that is left. Several who do this take turns. `line_count`: how many of the
-- batch's rows went (s6_rows_of).
create or replace function purge_slice(p_batch bigint, p_lines_max bigint, out line_count bigint, out done boolean)
language plpgsql volatile as $$
#variable_conflict use_column
declare
    v_total bigint;
    v_last bigint;
    v_after bigint;
    v_to bigint;
begin
    perform begin_request();
    line_count := 0;
    done := true;
    perform 1 from purges p where p.batch = p_batch for update;
    select p.line_count, p.last_line, p.gone_to into v_total, v_last, v_after from purges p where p.batch = p_batch;
    if not found then
        return;
    end if;
    v_to := least(v_after + greatest(p_lines_max, 1), v_last);
    delete from rows r where r.batch = p_batch and r.line > v_after and r.line <= v_to;
    delete from outcomes o where o.batch = p_batch and o.line > v_after and o.line <= v_to;
    delete from attempts a where a.batch = p_batch and a.first_line > v_after and a.first_line <= v_to;
    line_count := least(v_to, v_total) - least(v_after, v_total);
    done := v_to = v_last;
    if done then
        -- The log's entries of lines that do not exist are dropped answers of programs that are no good.
        delete from attempts a where a.batch = p_batch;
        delete from tallies t where t.batch = p_batch;
        delete from appends a where a.batch = p_batch;
        delete from purges p where p.batch = p_batch;
    else
        update purges p set gone_to = v_to where p.batch = p_batch;
    end if;
end $$;

-- Removes ended leases to which nothing can refer (s6_may_refer), those among so many behind this one. `next_after`: the last one that
-- was looked at, if there may be more.
create or replace function purge_leases(
    p_ended_before bigint, p_after bigint, p_look_at bigint, out removed bigint, out next_after bigint
)
language plpgsql volatile as $$
#variable_conflict use_column
declare
    v_count bigint;
    v_unused bigint[];
begin
    perform begin_request();
    -- All batches are gone through once, in the order of their beginnings, and not once per lease: of those that began before a
    -- lease ended, the one that ended last decides.
    with ended as (
        select l.lease, l.taken_at, l.ended_at
        from leases l
        where l.state <> 'live' and l.ended_at <= p_ended_before and l.lease > p_after
        order by l.lease limit p_look_at
    ), moments as (
        select b.created_at as moment, 0 as kind, coalesce(b.ended_at, 9223372036854775807) as open_until,
               null::bigint as lease, null::bigint as taken_at
        from batches b
        union all
        select e.ended_at, 1, null, e.lease, e.taken_at from ended e
    ), swept as (
        select m.kind, m.lease, m.taken_at,
               max(m.open_until) over (order by m.moment, m.kind rows unbounded preceding) as open_until
        from moments m
    ), looked_at as (
        select s.lease, s.open_until is null or s.open_until < s.taken_at as unused from swept s where s.kind = 1
    )
    select count(*), max(l.lease), coalesce(array_agg(l.lease) filter (where l.unused), '{}')
    into v_count, next_after, v_unused
    from looked_at l;
    if v_count < p_look_at then
        next_after := null;
    end if;
    -- What has ended does not live again: it need not be looked at again. Whoever settles a claim of it has it locked.
    perform 1 from leases l where l.lease = any (v_unused) order by l.lease for update;
    delete from leases l where l.lease = any (v_unused) and l.state <> 'live';
    get diagnostics removed = row_count;
    delete from lease_claims c where c.lease = any (v_unused);
end $$;
