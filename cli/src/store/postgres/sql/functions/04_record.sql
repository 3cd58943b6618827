-- O1 to O5: recording a group of answers; S1, L4: giving lines back.

-- T1: batches by id, then spans by token. One place per span: its batch, its token, how many of its lines are answered. O4: each
-- batch in the mode that `may_take_the_last` asks for; answers those that are locked exclusively.
--
-- That is asked without a lock first, and again under the locks, since claims and records may have come between. Where it comes out
-- otherwise, all locks are let go, by rolling back the block they were taken in, before the exclusive one is asked for:
-- upgrading it would deadlock with another that does the same.
create or replace function lock_for_outcomes(p_lease bigint, p_batches bigint[], p_tokens bigint[], p_counts bigint[])
returns bigint[]
language plpgsql volatile as $$
#variable_conflict use_column
declare
    v_batch bigint;
    v_exclusive bigint[] := '{}';
    v_before integer;
begin
    loop
        begin
            for v_batch in select distinct b from unnest(p_batches) b order by b loop
                if v_batch <> all (v_exclusive) and may_take_the_last(p_lease, v_batch, p_batches, p_tokens, p_counts) then
                    v_exclusive := v_exclusive || v_batch;
                end if;
                if v_batch = any (v_exclusive) then
                    perform 1 from batches b where b.batch = v_batch for update;
                else
                    perform 1 from batches b where b.batch = v_batch for key share;
                end if;
            end loop;
            perform 1 from spans s where s.token = any (p_tokens) and coalesce(s.lease, -1) = p_lease order by s.token for update;
            v_before := cardinality(v_exclusive);
            for v_batch in select distinct b from unnest(p_batches) b where b <> all (v_exclusive) loop
                if may_take_the_last(p_lease, v_batch, p_batches, p_tokens, p_counts) then
                    v_exclusive := v_exclusive || v_batch;
                end if;
            end loop;
            if cardinality(v_exclusive) = v_before then
                return v_exclusive;
            end if;
            raise exception 'at the end' using errcode = 'FP001';
        exception when sqlstate 'FP001' then
            null;
        end;
    end loop;
end $$;

-- O4: whether this group may take the batch's last open lines: none is left past the cursor, and no span of the group keeps
-- any. A span that keeps lines is locked by this transaction, so whoever takes the last of them comes later.
create or replace function may_take_the_last(
    p_lease bigint, p_batch bigint, p_batches bigint[], p_tokens bigint[], p_counts bigint[]
) returns boolean
language plpgsql volatile as $$
begin
    return coalesce((select b.cursor > b.total from batches b where b.batch = p_batch), false) and not exists (
        select from unnest(p_batches, p_tokens, p_counts) g (batch, token, line_count)
        where g.batch = p_batch and exists (
            select from spans s
            where s.token = g.token and coalesce(s.lease, -1) = p_lease and s.batch = p_batch
              and s.line_count > g.line_count offset 0
        )
    );
end $$;

-- O7: locks what a group's outcomes need, and answers line by line whether it is held, so that effects are applied before
-- `record_answers` writes the outcomes in the same transaction.
--
-- How each batch is locked is settled here. With fresh lines left now, a claim may take the last of them before the
-- outcomes are written; whoever records those waits for this transaction, and ends the batch. Asking again would turn a shared
-- lock into an exclusive one, as another such transaction may be doing.
create or replace function fence(
    p_lease bigint, p_batches bigint[], p_lines bigint[], p_tokens bigint[],
    out exclusive bigint[], out holds boolean[]
)
language plpgsql volatile as $$
#variable_conflict use_column
begin
    perform begin_request();
    exclusive := (
        select lock_for_outcomes(p_lease, array_agg(g.batch), array_agg(g.token), array_agg(g.line_count))
        from (
            select i.batch, i.token, count(*) as line_count from unnest(p_batches, p_tokens) i (batch, token)
            group by i.batch, i.token
        ) g
    );
    select array_agg((
               select count(*) from spans s
               where s.token = i.token and coalesce(s.lease, -1) = p_lease and s.batch = i.batch and s.lines @> i.line
           ) > 0 and (
               select b.status = 'open' from batches b where b.batch = i.batch
           ) order by i.place)
    into holds
    from unnest(p_batches, p_lines, p_tokens) with ordinality i (batch, line, token, place);
end $$;

-- O3. Items are arrays with one place per item: `answers` 0 success, 1 failed, 2 retry, 3 timed out; `spreads` is the
-- backoff's spread in thousandths (o5_backoff). The groups are the same lines once more, as one set per span. Verdicts, one
-- per item: 1 success, 2 failed, 3 given back, 4 recorded before, 5 fenced; null: all are recorded as they were answered.
--
-- `exclusive` is null, unless this transaction took the locks before (`fence`): then it is what that answered.
create or replace function record_answers(
    p_lease bigint, p_batches bigint[], p_lines bigint[], p_tokens bigint[], p_answers smallint[], p_texts text[],
    p_spreads integer[], p_run_us bigint[], p_group_batches bigint[], p_group_tokens bigint[], p_group_lines text[],
    p_group_counts bigint[], p_dropped_bytes_max integer, p_at bigint, p_exclusive bigint[]
) returns smallint[]
language plpgsql volatile as $$
#variable_conflict use_column
declare
    v_batch bigint;
    v_exclusive bigint[] := p_exclusive;
    v_now bigint;
    v_group_lines int8multirange[] := p_group_lines::int8multirange[];
    v_plain boolean;
    v_verdicts smallint[];
    v_used integer[];
    v_crashes integer[];
begin
    perform begin_request();
    if v_exclusive is null then
        v_exclusive := lock_for_outcomes(p_lease, p_group_batches, p_group_tokens, p_group_counts);
    end if;
    v_now := store_time(p_at);

    -- O1, for the whole group at once: all lines held, none tried before, no answer that wants another attempt.
    v_plain := not (2::smallint = any (p_answers) or 3::smallint = any (p_answers)) and not exists (
        select from unnest(p_group_batches, p_group_tokens, v_group_lines) g (batch, token, lines)
        where not exists (
            select from spans s
            where s.token = g.token and coalesce(s.lease, -1) = p_lease and s.batch = g.batch and not s.tried
              and s.lines @> g.lines offset 0
        ) or (select b.status from batches b where b.batch = g.batch) is distinct from 'open'
    );
    if v_plain then
        perform record_plain(p_lease, p_batches, p_lines, p_tokens, p_answers, p_texts, p_run_us,
                             p_group_batches, p_group_tokens, v_group_lines, p_group_counts, v_now);
    else
        select j.verdicts, j.used, j.crashes into v_verdicts, v_used, v_crashes
        from judge(p_lease, p_batches, p_lines, p_tokens, p_answers, p_group_tokens) j;
        perform record_judged(p_lease, p_batches, p_lines, p_tokens, p_answers, p_texts, p_spreads, p_run_us,
                              v_verdicts, v_used, v_crashes, p_dropped_bytes_max, v_now);
        perform stopped_lines(p_lease, p_group_tokens, v_group_lines);
    end if;

    foreach v_batch in array v_exclusive loop
        if v_plain or exists (
            select from unnest(p_batches, v_verdicts) i (batch, verdict) where i.batch = v_batch and i.verdict <= 3
        ) then
            perform end_batch_if_finished(v_batch, v_now);
        end if;
    end loop;
    return v_verdicts;
end $$;

-- The common case: every line is held. Outcomes are appended by one statement, without looking anything up.
create or replace function record_plain(
    p_lease bigint, p_batches bigint[], p_lines bigint[], p_tokens bigint[], p_answers smallint[], p_texts text[],
    p_run_us bigint[], p_group_batches bigint[], p_group_tokens bigint[], p_group_lines int8multirange[],
    p_group_counts bigint[], p_now bigint
) returns void
language plpgsql volatile as $$
#variable_conflict use_column
declare
    -- Null where the group is of several batches.
    v_generation integer := (
        select b.generation from batches b where b.batch = p_group_batches[1] and p_group_batches[1] = all (p_group_batches)
    );
begin
    delete from spans s
    using unnest(p_group_tokens, p_group_lines) g (token, lines)
    where s.token = g.token and coalesce(s.lease, -1) = p_lease and s.lines = g.lines;
    update spans s
    set lines = s.lines - g.lines, line_count = s.line_count - g.line_count
    from unnest(p_group_tokens, p_group_lines, p_group_counts) g (token, lines, line_count)
    where s.token = g.token and coalesce(s.lease, -1) = p_lease;
    insert into outcomes (batch, line, status, result, error, token, lease, attempts, crashes, generation, run_us, recorded_at)
    select i.batch, i.line,
           case i.answer when 0 then 'success' else 'failed' end,
           case i.answer when 0 then i.said end, case i.answer when 1 then i.said end,
           i.token, p_lease, 1, 0,
           coalesce(v_generation, (select b.generation from batches b where b.batch = i.batch)),
           i.run_us, p_now
    from unnest(p_batches, p_lines, p_answers, p_texts, p_tokens, p_run_us) i (batch, line, answer, said, token, run_us);
    insert into tallies as t (batch, lease, success, failed)
    select i.batch, p_lease, count(*) filter (where i.answer = 0), count(*) filter (where i.answer = 1)
    from unnest(p_batches, p_answers) i (batch, answer)
    group by i.batch
    order by i.batch
    on conflict (batch, lease) do update
    set success = t.success + excluded.success, failed = t.failed + excluded.failed;
end $$;

-- O1, O2, O5: the verdict on each line by itself. Whether the line is held is asked of the spans, which are locked; what was
-- recorded before is looked up here, in a statement that follows the lock. With it, what the recorded lines used up.
create or replace function judge(
    p_lease bigint, p_batches bigint[], p_lines bigint[], p_tokens bigint[], p_answers smallint[],
    p_group_tokens bigint[],
    out verdicts smallint[], out used integer[], out crashes integer[]
)
language plpgsql volatile as $$
#variable_conflict use_column
begin
    with fence as materialized (
        select s.token, s.batch, s.lines, s.tried, b.attempts_max
        from spans s
        cross join lateral (
            select b.attempts_max from batches b where b.batch = s.batch and b.status = 'open' offset 0
        ) b
        where s.token = any (p_group_tokens) and coalesce(s.lease, -1) = p_lease
    ), item as materialized (
        select i.place, i.batch, i.line, i.token, i.answer, f.token is not null as holds, f.attempts_max,
               case when f.tried then attempts_used(i.batch, i.line) else 0 end as used,
               case when f.tried then crashes_counted(i.batch, i.line) else 0 end as crashes
        from unnest(p_batches, p_lines, p_tokens, p_answers) with ordinality i (batch, line, token, answer, place)
        left join fence f on f.token = i.token and f.batch = i.batch and f.lines @> i.line
    )
    select array_agg((case
               when holds and answer = 0 then 1
               when holds and answer = 1 then 2
               -- o5_after_retry
               when holds then case when used + 1 >= attempts_max then 2 else 3 end
               -- S6: of a batch that is not there any more, nothing counts.
               when not exists (select from batches b where b.batch = item.batch) then 5
               when token = (select o.token from outcomes o where o.batch = item.batch and o.line = item.line) then 4
               when (
                   select count(*) from attempts a
                   where a.batch = item.batch and a.first_line = item.line and a.token = item.token
                     and a.kind in ('retried', 'timed_out', 'superseded')
               ) > 0 then 4
               else 5
           end)::smallint order by place),
           array_agg(used order by place),
           array_agg(crashes order by place)
    into verdicts, used, crashes
    from item;
end $$;

-- Writes what was judged: lines leave their spans; outcomes, returns and dropped answers are appended; all of it is counted.
create or replace function record_judged(
    p_lease bigint, p_batches bigint[], p_lines bigint[], p_tokens bigint[], p_answers smallint[], p_texts text[],
    p_spreads integer[], p_run_us bigint[], p_verdicts smallint[], p_used integer[], p_crashes integer[],
    p_dropped_bytes_max integer, p_now bigint
) returns void
language plpgsql volatile as $$
#variable_conflict use_column
declare
    v_dropped integer;
    v_returned boolean := 3::smallint = any (p_verdicts);
begin
    if v_returned then
        insert into attempts (batch, generation, first_line, last_line, token, kind, lease, detail, run_us, at)
        select i.batch, (select b.generation from batches b where b.batch = i.batch), i.line, i.line, i.token,
               case i.answer when 3 then 'timed_out' else 'retried' end, p_lease, i.said, i.run_us, p_now
        from unnest(p_batches, p_lines, p_tokens, p_answers, p_texts, p_run_us, p_verdicts) with ordinality
             i (batch, line, token, answer, said, run_us, verdict, place)
        where i.verdict = 3
        order by i.place;
        -- O5: free again, but not before some time (o5_backoff: 1 s doubled, at most 400 s, spread).
        insert into spans (token, batch, lines, line_count, first_line, not_before, suspicion, tried)
        select nextval('tokens'), batch, int8multirange(int8range(line, line, '[]')), 1, line,
               p_now + least(1000000 * 2::bigint ^ least(used, 16), 400000000)::bigint * spread / 1000,
               suspicion, true
        from (
            select i.batch, i.line, i.used, i.spread, s.suspicion
            from unnest(p_batches, p_lines, p_tokens, p_spreads, p_used, p_verdicts) with ordinality
                 i (batch, line, token, spread, used, verdict, place)
            join spans s on s.token = i.token
            where i.verdict = 3
            order by i.place
        ) in_order;
        perform tell('');
    end if;

    with gone as (
        select i.token, range_agg(int8range(i.line, i.line, '[]')) as lines, count(*) as line_count
        from unnest(p_lines, p_tokens, p_verdicts) i (line, token, verdict)
        where i.verdict <= 3
        group by i.token
    ), ended as (
        delete from spans s using gone g where s.token = g.token and coalesce(s.lease, -1) = p_lease and s.lines <@ g.lines
    )
    update spans s set lines = s.lines - g.lines, line_count = s.line_count - g.line_count
    from gone g
    where s.token = g.token and coalesce(s.lease, -1) = p_lease and not s.lines <@ g.lines;

    insert into outcomes (batch, line, status, result, error, token, lease, attempts, crashes, generation, run_us, recorded_at)
    select i.batch, i.line,
           case i.verdict when 1 then 'success' else 'failed' end,
           case i.verdict when 1 then i.said end, case i.verdict when 2 then i.said end,
           i.token, p_lease, i.used + 1, i.crashes,
           (select b.generation from batches b where b.batch = i.batch), i.run_us, p_now
    from unnest(p_batches, p_lines, p_tokens, p_texts, p_run_us, p_verdicts, p_used, p_crashes)
         i (batch, line, token, said, run_us, verdict, used, crashes)
    where i.verdict <= 2;

    -- A dropped answer is kept in the row's story, once, as far as its batch is there; counted where it is new.
    with dropped as (
        insert into attempts (batch, generation, first_line, last_line, token, kind, lease, detail, run_us, at)
        select i.batch, b.generation, i.line, i.line, i.token, 'fenced', p_lease,
               case i.answer when 0 then 'success: ' when 1 then 'failed: ' when 2 then 'retry: ' else 'timed out: ' end
                   || cut_text(i.said, p_dropped_bytes_max),
               i.run_us, p_now
        from unnest(p_batches, p_lines, p_tokens, p_answers, p_texts, p_run_us, p_verdicts) with ordinality
             i (batch, line, token, answer, said, run_us, verdict, place)
        join batches b on b.batch = i.batch
        where i.verdict = 5
        order by i.place
        on conflict do nothing
        returning batch
    ), counted as (
        select i.batch,
               count(*) filter (where i.verdict = 1) as success,
               count(*) filter (where i.verdict = 2) as failed,
               count(*) filter (where i.verdict = 3 and i.answer <> 3) as retried,
               count(*) filter (where i.verdict = 3 and i.answer = 3) as timed_out,
               0::bigint as fenced
        from unnest(p_batches, p_answers, p_verdicts) i (batch, answer, verdict)
        where i.verdict <= 3
        group by i.batch
        union all
        select batch, 0, 0, 0, 0, count(*) from dropped group by batch
    )
    insert into tallies as t (batch, lease, success, failed, retried, timed_out, fenced)
    select batch, p_lease, sum(success), sum(failed), sum(retried), sum(timed_out), sum(fenced)
    from counted group by batch order by batch
    on conflict (batch, lease) do update
    set success = t.success + excluded.success, failed = t.failed + excluded.failed,
        retried = t.retried + excluded.retried, timed_out = t.timed_out + excluded.timed_out,
        fenced = t.fenced + excluded.fenced;
end $$;

-- The text's first bytes, cut at a character.
create or replace function cut_text(said text, bytes_max integer) returns text
language plpgsql immutable as $$
declare
    v_bytes bytea;
    v_end integer := bytes_max;
begin
    if octet_length(said) <= bytes_max then
        return said;
    end if;
    v_bytes := convert_to(said, 'UTF8');
    -- A byte that goes on with a character is 10xxxxxx.
    while v_end > 0 and get_byte(v_bytes, v_end) & 192 = 128 loop
        v_end := v_end - 1;
    end loop;
    return convert_from(substr(v_bytes, 1, v_end), 'UTF8') || '...';
end $$;

-- S1, L4: lines go back as they were, with no attempt used. One place per entry.
create or replace function give_back(p_lease bigint, p_batches bigint[], p_tokens bigint[], p_lines text[], p_at bigint)
returns void
language plpgsql volatile as $$
#variable_conflict use_column
declare
    v_now bigint;
    v_entry record;
    v_span spans;
    v_generation integer;
    v_back int8multirange;
    v_any boolean := false;
begin
    perform begin_request();
    perform 1 from batches b where b.batch = any (p_batches) order by b.batch for key share;
    perform 1 from spans s where s.token = any (p_tokens) and coalesce(s.lease, -1) = p_lease order by s.token for update;
    v_now := store_time(p_at);
    for v_entry in
        select e.batch, e.token, e.lines::int8multirange as lines
        from unnest(p_batches, p_tokens, p_lines) with ordinality e (batch, token, lines, place)
        order by e.place
    loop
        select b.generation into v_generation from batches b where b.batch = v_entry.batch and b.status = 'open';
        continue when not found;
        select * into v_span from spans s where s.token = v_entry.token and coalesce(s.lease, -1) = p_lease and s.batch = v_entry.batch;
        continue when not found;
        v_back := v_span.lines * v_entry.lines;
        continue when isempty(v_back);
        if v_back = v_span.lines then
            delete from spans s where s.token = v_span.token and coalesce(s.lease, -1) = p_lease;
        else
            update spans s
            set lines = v_span.lines - v_back, line_count = v_span.line_count - count_lines(v_back)
            where s.token = v_span.token and coalesce(s.lease, -1) = p_lease;
        end if;
        insert into spans (token, batch, lines, line_count, first_line, suspicion, tried)
        values (nextval('tokens'), v_span.batch, v_back, count_lines(v_back), lower(v_back), v_span.suspicion, v_span.tried);
        insert into attempts (batch, generation, first_line, last_line, token, kind, lease, at)
        select v_span.batch, v_generation, lower(r), upper(r) - 1, v_span.token, 'given_back', p_lease, v_now
        from unnest(v_back) r order by r;
        v_any := true;
    end loop;
    perform stopped_lines(p_lease, p_tokens, p_lines::int8multirange[]);
    if v_any then
        perform tell('');
    end if;
end $$;
