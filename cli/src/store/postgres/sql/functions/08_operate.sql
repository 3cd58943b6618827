-- S2, S3, S5: what an operator does to a batch. T1: each takes the batch's lock in a statement of its own, and looks in later
-- ones. Each may be repeated after an unknown end.

-- s3_hold. `outcome`: now, before, not_there, or the status of a batch that is not open.
--
-- The lock is the one that claims and all that decide about the batch exclude one another by. Records, which do not ask whether
-- it is held, go on beside it, so a hold never waits for them.
create or replace function hold_batch(p_batch bigint, p_hold boolean, out outcome text)
language plpgsql volatile as $$
#variable_conflict use_column
declare
    v_status text;
    v_held boolean;
begin
    perform begin_request();
    perform 1 from batches b where b.batch = p_batch for no key update;
    select b.status, b.held into v_status, v_held from batches b where b.batch = p_batch;
    if not found then
        outcome := 'not_there';
    elsif v_status <> 'open' then
        outcome := v_status;
    elsif v_held = p_hold then
        outcome := 'before';
    else
        update batches b set held = p_hold where b.batch = p_batch and b.status = 'open';
        if not p_hold then
            perform tell('batch');
        end if;
        outcome := 'now';
    end if;
end $$;

-- s2_abort. `outcome` as above. Nothing in it is done row by row.
create or replace function abort_batch(p_batch bigint, p_at bigint, out outcome text)
language plpgsql volatile as $$
#variable_conflict use_column
declare
    v_status text;
    v_id text;
begin
    perform begin_request();
    perform 1 from batches b where b.batch = p_batch for update;
    select b.status, b.id into v_status, v_id from batches b where b.batch = p_batch;
    if not found then
        outcome := 'not_there';
    elsif v_status = 'aborted' then
        outcome := 'before';
    elsif v_status <> 'open' then
        outcome := v_status;
    else
        update batches b set status = 'aborted', ended_at = store_time(p_at) where b.batch = p_batch and b.status = 'open';
        -- cut_back alone locks spans without their batch, these ones in this order.
        perform 1 from spans s
        where s.batch = p_batch and s.lease is null and s.not_before is not null
        order by s.first_line for update;
        -- What is held now may still run, whatever the fence does with its answers.
        insert into stopping (token, batch, lease, claim_number, lines, line_count)
        select s.token, s.batch, s.lease, s.claim_number, s.lines, s.line_count
        from spans s where s.batch = p_batch and s.lease is not null;
        -- As two, since each partial index has one half.
        delete from spans s where s.batch = p_batch and s.lease is null;
        delete from spans s where s.batch = p_batch and s.lease is not null;
        perform record_completion(p_batch);
        perform tell(v_id);
        outcome := 'now';
    end if;
end $$;

-- S5: turns outcomes back into free spans, one for each run of adjacent lines. Those that are meant: the one of a line (where
-- `p_token` is not null: if it is still under that token), or else all failed ones (where `p_text` is not null: whose error
-- contains it). What is removed drives everything else: exactly that is free, in the rows' stories, and off the counts.
-- `outcome`: rows, or aborted, loading, not_there.
create or replace function retry_rows(
    p_batch bigint, p_line bigint, p_token bigint, p_text text, p_dropped_bytes_max integer, p_at bigint,
    out outcome text, out freed bigint, out generation integer, out reopened boolean
)
language plpgsql volatile as $$
#variable_conflict use_column
declare
    v_status text;
    v_now bigint;
    v_success bigint;
    v_failed bigint;
begin
    perform begin_request();
    perform 1 from batches b where b.batch = p_batch for update;
    select b.status, b.generation into v_status, generation from batches b where b.batch = p_batch;
    -- s5_may_retry
    if not found then
        outcome := 'not_there';
        return;
    elsif v_status in ('loading', 'aborted') then
        outcome := v_status;
        return;
    end if;
    outcome := 'rows';
    v_now := store_time(p_at);

    with named as (
        delete from outcomes o
        where p_line is not null and o.batch = p_batch and o.line = p_line and (p_token is null or o.token = p_token)
        returning o.*
    ), failed as (
        delete from outcomes o
        where p_line is null and o.batch = p_batch and o.status = 'failed' and (p_text is null or strpos(o.error, p_text) > 0)
        returning o.*
    ), gone as materialized (
        select * from named union all select * from failed
    ), told as (
        insert into attempts (batch, generation, first_line, last_line, token, kind, lease, detail, run_us, at)
        select g.batch, g.generation, g.line, g.line, g.token, 'superseded', g.lease,
               -- Asked here, since calling a function a million times takes seconds.
               g.status || ': ' || case when octet_length(coalesce(g.result, g.error, '')) <= p_dropped_bytes_max
                                        then coalesce(g.result, g.error, '')
                                        else cut_text(coalesce(g.result, g.error, ''), p_dropped_bytes_max) end,
               g.run_us, v_now
        from gone g
    ), range as (
        select min(i.line) as first, max(i.line) as last
        from (select g.line, g.line - row_number() over (order by g.line) as island from gone g) i
        group by i.island
    ), freed_spans as (
        -- No suspicion and no backoff from before. T3: a token per span, drawn under the lock.
        insert into spans (token, batch, lines, line_count, first_line, tried)
        select nextval('tokens'), p_batch, int8multirange(int8range(r.first, r.last, '[]')), r.last - r.first + 1, r.first, true
        from (select * from range order by first) r
    )
    select count(*) filter (where g.status = 'success'), count(*) filter (where g.status = 'failed')
    into v_success, v_failed
    from gone g;
    freed := v_success + v_failed;
    -- s5_generation
    reopened := freed > 0 and v_status <> 'open';
    if freed = 0 then
        return;
    end if;
    -- Nobody knows any more which lease counted them.
    insert into tallies as t (batch, lease, success, failed) values (p_batch, 0, -v_success, -v_failed)
    on conflict (batch, lease) do update set success = t.success + excluded.success, failed = t.failed + excluded.failed;
    if reopened then
        generation := generation + 1;
        update batches b set status = 'open', ended_at = null, generation = b.generation + 1
        where b.batch = p_batch and b.status in ('success', 'failed');
    end if;
    perform tell('batch');
end $$;
