-- S3: appending to a batch: rows beyond its total in slices, then one transaction that raises the total.
--
-- Locks: a slice and a removal take the append's record alone; the end takes it, then the batch exclusively; a beginning has the batch
-- shared and never waits for a record, so that nobody holds up a batch while a slice is on its way.

-- s3_begin_append. `outcome`: loading, done, busy, refused; remove: the append `cut_off` is to be removed, then this is asked again.
create or replace function begin_append(
    p_batch bigint, p_append bigint, p_key text, p_cut_off_after_us bigint, p_at bigint,
    out outcome text, out first_line bigint, out line_count bigint, out digest text, out key text, out status text,
    out unmoved_us bigint, out cut_off bigint
)
language plpgsql volatile as $$
#variable_conflict use_column
declare
    v_now bigint;
    v_total bigint;
    v_append bigint;
    v_state text;
    v_moved_at bigint;
begin
    perform begin_request();
    for v_try in 1..100 loop
        -- The total stays as it is until this transaction ends.
        perform 1 from batches b where b.batch = p_batch for key share;
        v_now := store_time(p_at);
        select b.status, b.total into status, v_total from batches b where b.batch = p_batch;
        if not found then
            outcome := 'refused';
            return;
        end if;

        select 'done', a.first_line, a.line_count, coalesce(a.digest, '')
        into outcome, first_line, line_count, digest
        from appends a where a.append = p_append and a.batch = p_batch and a.status = 'done';
        if not found and p_key is not null then
            select 'done', a.first_line, a.line_count, coalesce(a.digest, '')
            into outcome, first_line, line_count, digest
            from appends a where a.batch = p_batch and a.key = p_key and a.status = 'done';
        end if;
        if outcome is not null then
            return;
        end if;

        -- s3_may_append
        if status is distinct from 'open' then
            outcome := 'refused';
            return;
        end if;

        select a.append, a.status, a.key, a.first_line, a.line_count, a.moved_at
        into v_append, v_state, key, first_line, line_count, v_moved_at
        from appends a where a.batch = p_batch and a.status <> 'done';
        if not found then
            begin
                first_line := v_total + 1;
                insert into appends (append, batch, key, first_line, status, created_at, moved_at)
                values (p_append, p_batch, p_key, first_line, 'loading', v_now, v_now);
                outcome := 'loading';
                return;
            exception when unique_violation then
                -- Another one began at the same moment.
                continue;
            end;
        end if;
        if v_state = 'loading' and v_append = p_append then
            outcome := 'loading';
            return;
        end if;
        if v_state = 'loading' then
            -- Who has the record locked is moving. Locked here, it is looked at again by the update.
            perform 1 from appends a where a.append = v_append and a.status = 'loading' for update skip locked;
            if found then
                -- s3_cut_off
                update appends a set status = 'removing'
                where a.append = v_append and a.status = 'loading' and a.moved_at <= v_now - p_cut_off_after_us;
                if found then
                    v_state := 'removing';
                else
                    -- s3_moved_at
                    update appends a set moved_at = v_now where a.append = v_append and a.moved_at > v_now;
                end if;
            end if;
        end if;
        if v_state = 'removing' then
            outcome := 'remove';
            cut_off := v_append;
            return;
        end if;
        outcome := 'busy';
        unmoved_us := greatest(v_now - v_moved_at, 0);
        return;
    end loop;
    raise exception 'no append can begin: the id is taken by one of another batch';
end $$;

-- s3_stage. Takes a slice's place: locks the append's record, and says how many of the slice's first rows are there already. The
-- caller's transaction copies the rest in before it ends. No input of the slice is longer than `p_input_bytes_max`.
-- `outcome`: store, refused, taken_over; gap: lines before are missing.
create or replace function advance_append(
    p_batch bigint, p_append bigint, p_first_line bigint, p_rows bigint, p_input_bytes_max bigint, p_at bigint,
    out outcome text, out status text, out there bigint
)
language plpgsql volatile as $$
#variable_conflict use_column
declare
    v_first bigint;
    v_count bigint;
begin
    perform begin_request();
    perform 1 from appends a where a.append = p_append and a.batch = p_batch for update;
    -- Read without a lock: the end looks again.
    select b.status into status from batches b where b.batch = p_batch;
    if status is distinct from 'open' then
        outcome := 'refused';
        return;
    end if;
    select a.first_line, a.line_count into v_first, v_count
    from appends a where a.append = p_append and a.batch = p_batch and a.status = 'loading';
    if not found then
        outcome := 'taken_over';
        return;
    end if;
    if p_first_line < v_first or p_first_line > v_first + v_count then
        outcome := 'gap';
        return;
    end if;
    update appends a
    set line_count = greatest(v_count, p_first_line + p_rows - v_first), moved_at = store_time(p_at),
        input_bytes_max = greatest(a.input_bytes_max, p_input_bytes_max)
    where a.append = p_append and a.status = 'loading';
    outcome := 'store';
    there := least(v_first + v_count - p_first_line, p_rows);
end $$;

-- s3_finish_append: raises the total over the append's rows, or finds out that it was done already. May be repeated. `outcome`: done,
-- same, differs, refused, taken_over; incomplete: it does not have the rows that were stored.
create or replace function finish_append(
    p_batch bigint, p_append bigint, p_digest text, p_rows bigint,
    out outcome text, out status text, out first_line bigint, out line_count bigint
)
language plpgsql volatile as $$
#variable_conflict use_column
declare
    v_state text;
    v_digest text;
begin
    perform begin_request();
    perform 1 from appends a where a.append = p_append and a.batch = p_batch for update;
    -- T1: whoever records the batch's last row waits here, or this waits for its end.
    perform 1 from batches b where b.batch = p_batch for update;
    select b.status into status from batches b where b.batch = p_batch;
    select a.status, a.digest, a.first_line, a.line_count into v_state, v_digest, first_line, line_count
    from appends a where a.append = p_append and a.batch = p_batch;
    if v_state = 'done' and status is not null then
        outcome := case when v_digest = p_digest then 'same' else 'differs' end;
        return;
    end if;
    if status is distinct from 'open' then
        update appends a set status = 'removing' where a.append = p_append and a.batch = p_batch and a.status = 'loading';
        outcome := 'refused';
        return;
    end if;
    if v_state is distinct from 'loading' then
        outcome := 'taken_over';
        return;
    end if;
    if line_count <> p_rows then
        outcome := 'incomplete';
        return;
    end if;
    if p_rows > 0 then
        update batches b
        set total = b.total + p_rows,
            input_bytes_max = greatest(b.input_bytes_max, (select a.input_bytes_max from appends a where a.append = p_append))
        where b.batch = p_batch and b.status = 'open' and b.total = first_line - 1;
        if not found then
            raise exception 'the store contradicts itself: an append does not begin behind its batch''s total';
        end if;
        perform tell('batch');
    end if;
    update appends a set status = 'done', digest = p_digest where a.append = p_append;
    outcome := 'done';
end $$;

-- Removes a slice of an append that is not done, from its last row on; how many rows went, 0 at the end. The total's own lines are
-- never among them.
create or replace function remove_append_slice(p_batch bigint, p_append bigint, p_rows bigint) returns bigint
language plpgsql volatile as $$
#variable_conflict use_column
declare
    v_first bigint;
    v_count bigint;
    v_rows bigint;
begin
    perform begin_request();
    perform 1 from appends a where a.append = p_append and a.batch = p_batch and a.status <> 'done' for update;
    update appends a set status = 'removing' where a.append = p_append and a.batch = p_batch and a.status <> 'done'
    returning a.first_line, a.line_count into v_first, v_count;
    if not found then
        return 0;
    end if;
    v_rows := least(v_count, p_rows);
    delete from rows r
    where r.batch = p_batch
      and r.line between v_first + v_count - v_rows and v_first + v_count - 1
      and r.line > (select b.total from batches b where b.batch = p_batch);
    if v_rows < v_count then
        update appends a set line_count = v_count - v_rows where a.append = p_append;
        return v_rows;
    end if;
    delete from appends a where a.append = p_append;
    return 0;
end $$;
