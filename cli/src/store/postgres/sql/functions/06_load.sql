-- S4: loading a batch in slices.

-- Makes a batch to load rows into; nobody claims of it.
create or replace function begin_load(
    p_batch bigint, p_id text, p_operation text, p_priority integer, p_attempts_max bigint, p_crashes_max bigint,
    p_timeout_ms bigint, p_header text, p_source text, p_cut_off_after_us bigint, p_at bigint,
    p_on_done_url text default null,
    out cut_off bigint[]
)
language plpgsql volatile as $$
#variable_conflict use_column
declare
    v_now bigint := store_time(p_at);
begin
    perform begin_request();
    insert into batches (batch, id, operation, status, priority, attempts_max, crashes_max, timeout_ms, header, source, created_at, on_done_url)
    values (p_batch, p_id, p_operation, 'loading', p_priority, p_attempts_max, p_crashes_max, p_timeout_ms, p_header, p_source, v_now, p_on_done_url);
    if exists (select from purges p where p.batch = p_batch) then
        raise exception 'batch % is the id of one that is being purged; try again', p_id;
    end if;
    -- loaded_at is when a load last moved, until it ends.
    cut_off := array(
        select b.batch from batches b
        where b.status = 'loading' and coalesce(b.loaded_at, b.created_at) < v_now - p_cut_off_after_us
    );
end $$;

-- Takes a slice's place: locks the batch, and says how many of the slice's first rows are there already. Null: the batch
-- takes no such rows. The caller's transaction copies the rest in before it ends. No input of the slice is longer than
-- `p_input_bytes_max`.
create or replace function advance_load(
    p_batch bigint, p_first_line bigint, p_rows bigint, p_input_bytes_max bigint, p_at bigint
) returns bigint
language plpgsql volatile as $$
#variable_conflict use_column
declare
    v_total bigint;
begin
    perform begin_request();
    select b.total into v_total from batches b where b.batch = p_batch and b.status = 'loading' for update;
    if not found or v_total < p_first_line - 1 then
        return null;
    end if;
    update batches b
    set total = greatest(v_total, p_first_line + p_rows - 1), loaded_at = store_time(p_at),
        input_bytes_max = greatest(b.input_bytes_max, p_input_bytes_max)
    where b.batch = p_batch and b.status = 'loading';
    return least(v_total - (p_first_line - 1), p_rows);
end $$;

-- s4_bind_key: binds the key and opens the batch, or finds out that it is there already. May be repeated. `outcome`: new,
-- same, differs; gone: the batch is not there any more; incomplete: it does not have the rows that were loaded.
create or replace function finish_load(
    p_batch bigint, p_key text, p_digest text, p_total bigint, p_at bigint,
    out outcome text, out there bigint
)
language plpgsql volatile as $$
#variable_conflict use_column
declare
    v_now bigint;
    v_status text;
    v_digest text;
    v_bound text;
begin
    perform begin_request();
    perform 1 from batches b where b.batch = p_batch for update;
    -- Another load may bind the same key at the same moment: then the update waits for it, and what it did is looked at.
    loop
        select b.status, b.digest into v_status, v_digest from batches b where b.batch = p_batch;
        if found and v_status <> 'loading' then
            -- An earlier try opened it.
            there := p_batch;
            outcome := case when v_digest = p_digest then 'same' else 'differs' end;
            return;
        end if;
        select b.batch, coalesce(b.digest, '') into there, v_bound from batches b where b.key = p_key;
        if there is not null then
            outcome := case when v_bound = p_digest then 'same' else 'differs' end;
            return;
        end if;
        if v_status is null then
            outcome := 'gone';
            return;
        end if;
        v_now := store_time(p_at);
        begin
            update batches b set status = 'open', key = p_key, digest = p_digest, loaded_at = v_now
            where b.batch = p_batch and b.status = 'loading' and b.total = p_total;
            if not found then
                outcome := 'incomplete';
                return;
            end if;
            -- O4: an empty batch ends at once.
            perform end_batch_if_finished(p_batch, v_now);
            perform tell('batch');
            outcome := 'new';
            return;
        exception when unique_violation then
            null;
        end;
    end loop;
end $$;

-- Removes a slice of a batch that was never opened; how many rows went, 0 at the end. A total of 0 keeps a loader that was
-- taken for dead from going on, or from opening what is half removed.
create or replace function remove_load_slice(p_batch bigint, p_rows bigint) returns bigint
language plpgsql volatile as $$
#variable_conflict use_column
declare
    v_gone bigint;
begin
    perform begin_request();
    update batches b set total = 0 where b.batch = p_batch and b.status = 'loading';
    if not found then
        return 0;
    end if;
    delete from rows r
    where r.batch = p_batch
      and r.line between (select min(f.line) from rows f where f.batch = p_batch)
                     and (select min(f.line) from rows f where f.batch = p_batch) + p_rows - 1;
    get diagnostics v_gone = row_count;
    if v_gone = 0 then
        delete from batches b where b.batch = p_batch and b.status = 'loading';
    end if;
    return v_gone;
end $$;
