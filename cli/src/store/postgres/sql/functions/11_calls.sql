-- S7: completion calls: the records of ends, claimed and recorded.

-- s7_url_allowed, for any of the prefixes.
create or replace function url_allowed(p_prefixes text[], p_url text) returns boolean
language plpgsql immutable as $$
begin
    return exists (
        select from unnest(p_prefixes) p (prefix)
        where starts_with(p_url, prefix)
          and (length(p_url) = length(prefix) or right(prefix, 1) = '/' or substr(p_url, length(prefix) + 1, 1) in ('/', '?'))
    );
end $$;

-- s7_makes: of the calls that nobody holds, the first of each kind: by operation, command or URL, with a time to wait for or
-- without one. Whether any of them may be claimed, and which, or else until when they wait, is seen from these alone. Of those by
-- URL the first few are looked at in their order; where none of them is allowed, all under each prefix (nothing that begins with it
-- comes after the last character of all).
create or replace function first_calls(p_operations text[], p_command boolean, p_urls text[])
returns table (batch bigint, generation integer, not_before bigint, ended_at bigint)
language plpgsql volatile as $$
#variable_conflict use_column
declare
    v_operation text;
    v_prefix text;
    v_in_order_max constant integer := 64;
begin
    foreach v_operation in array p_operations loop
        if p_command then
            return query
                select c.batch, c.generation, c.not_before, c.ended_at from completions c
                where c.operation = v_operation and c.delivered_at is null and c.lease is null and c.url is null
                  and c.not_before is null
                order by c.ended_at, c.batch, c.generation limit 1;
            return query
                select c.batch, c.generation, c.not_before, c.ended_at from completions c
                where c.operation = v_operation and c.delivered_at is null and c.lease is null and c.url is null
                  and c.not_before is not null
                order by c.not_before, c.batch, c.generation limit 1;
        end if;
        continue when cardinality(p_urls) = 0;
        return query
            select f.batch, f.generation, f.not_before, f.ended_at
            from (
                select c.* from completions c
                where c.operation = v_operation and c.delivered_at is null and c.lease is null and c.url is not null
                  and c.not_before is null
                order by c.ended_at, c.batch, c.generation limit v_in_order_max
            ) f
            where url_allowed(p_urls, f.url)
            order by f.ended_at, f.batch, f.generation limit 1;
        if not found then
            foreach v_prefix in array p_urls loop
                return query
                    select c.batch, c.generation, c.not_before, c.ended_at from completions c
                    where c.operation = v_operation and c.delivered_at is null and coalesce(c.lease, -1) = -1
                      and c.url is not null and c.not_before is null
                      and left(c.url, 256) collate "C" >= left(v_prefix, 256)
                      and left(c.url, 256) collate "C" < left(v_prefix, 256) || chr(1114111)
                      and url_allowed(array[v_prefix], c.url)
                    order by c.ended_at, c.batch, c.generation limit 1;
            end loop;
        end if;
        return query
            select f.batch, f.generation, f.not_before, f.ended_at
            from (
                select c.* from completions c
                where c.operation = v_operation and c.delivered_at is null and c.lease is null and c.url is not null
                  and c.not_before is not null
                order by c.not_before, c.batch, c.generation limit v_in_order_max
            ) f
            where url_allowed(p_urls, f.url)
            order by f.not_before, f.batch, f.generation limit 1;
        if not found then
            foreach v_prefix in array p_urls loop
                return query
                    select c.batch, c.generation, c.not_before, c.ended_at from completions c
                    where c.operation = v_operation and c.delivered_at is null and coalesce(c.lease, -1) = -1
                      and c.url is not null and c.not_before is not null
                      and left(c.url, 256) collate "C" >= left(v_prefix, 256)
                      and left(c.url, 256) collate "C" < left(v_prefix, 256) || chr(1114111)
                      and url_allowed(array[v_prefix], c.url)
                    order by c.not_before, c.batch, c.generation limit 1;
            end loop;
        end if;
    end loop;
end $$;

-- S7: takes a call under a fresh token. First of all one that the lease holds and that is not among those that its worker knows: the
-- reply to the claim that took it was lost. `outcome`: granted (`batch` is null where nothing was) or lease_ended.
create or replace function claim_call(
    p_lease bigint, p_operations text[], p_command boolean, p_urls text[], p_known bigint[], p_at bigint,
    out outcome text, out batch bigint, out generation integer, out token bigint, out attempts integer, out key text,
    out operation text, out url text, out status text, out success bigint, out failed bigint, out aborted bigint,
    out ended_at bigint, out next_after_us bigint, out open_lines boolean, out undelivered boolean
)
language plpgsql volatile as $$
#variable_conflict use_column
declare
    v_now bigint;
    v_locked boolean := false;
    v_batch bigint;
    v_generation integer;
begin
    perform begin_request();
    outcome := 'lease_ended';
    if not exists (select from leases l where l.lease = p_lease and l.state = 'live') then
        return;
    end if;
    loop
        select c.batch, c.generation into v_batch, v_generation from completions c
        where c.lease = p_lease and c.token <> all (p_known)
        order by c.token limit 1;
        exit when found;
        v_now := store_time(p_at);
        -- s7_may_claim, s7_due_since
        select f.batch, f.generation into v_batch, v_generation
        from first_calls(p_operations, p_command, p_urls) f
        where f.not_before is null or f.not_before <= v_now
        order by coalesce(f.not_before, f.ended_at), f.batch, f.generation limit 1;
        exit when v_batch is null;
        if not v_locked then
            -- C1: recovery waits for this lock, renewal does not. What was found without it is looked for again.
            perform 1 from leases l where l.lease = p_lease and l.state = 'live' for key share;
            if not found then
                return;
            end if;
            v_locked := true;
            continue;
        end if;
        -- Another may have taken it: then the next one is looked for.
        perform 1 from completions c where c.batch = v_batch and c.generation = v_generation for update;
        update completions c
        set token = nextval('tokens'), lease = p_lease, not_before = null, attempts = c.attempts + 1
        where c.batch = v_batch and c.generation = v_generation and c.delivered_at is null and c.lease is null
          and (c.not_before is null or c.not_before <= v_now);
        exit when found;
    end loop;
    outcome := 'granted';
    -- Before it is looked whether a call is undelivered: what ends in between was open.
    open_lines := exists (select from batches b where b.status = 'open' and b.operation = any (p_operations));
    if v_batch is not null then
        select c.batch, c.generation, c.token, c.attempts, (select b.key from batches b where b.batch = c.batch), c.operation,
               c.url, c.status, c.success, c.failed, c.aborted, c.ended_at
        into batch, generation, token, attempts, key, operation, url, status, success, failed, aborted, ended_at
        from completions c where c.batch = v_batch and c.generation = v_generation;
        undelivered := true;
    else
        -- Each of these looks sees the moment at which it is made: what is freed meanwhile was held before, what is taken is held after.
        undelivered := is_call_held(p_operations, p_command, p_urls);
        -- Of the free ones none is due: what was found waits.
        select undelivered or count(*) > 0, min(f.not_before) - v_now into undelivered, next_after_us
        from first_calls(p_operations, p_command, p_urls) f;
        undelivered := undelivered or is_call_held(p_operations, p_command, p_urls);
    end if;
end $$;

-- Whether somebody makes a call that a worker of this kind might make.
create or replace function is_call_held(p_operations text[], p_command boolean, p_urls text[]) returns boolean
language plpgsql volatile as $$
begin
    return exists (
        select from completions c
        where c.lease is not null and c.delivered_at is null and c.operation = any (p_operations)
          and case when c.url is null then p_command else url_allowed(p_urls, c.url) end
    );
end $$;

-- S7: what came of a call, once. `p_outcome`: delivered, retry (with the error and the backoff's spread in thousandths, o5_backoff) or
-- given_back. s7_fence: recorded, recorded_before or fenced.
create or replace function record_call(
    p_lease bigint, p_batch bigint, p_generation integer, p_token bigint, p_outcome text, p_error text, p_spread integer,
    p_at bigint
) returns text
language plpgsql volatile as $$
#variable_conflict use_column
declare
    v_lease bigint;
    v_token bigint;
begin
    perform begin_request();
    select c.lease, c.token into v_lease, v_token
    from completions c where c.batch = p_batch and c.generation = p_generation
    for update;
    if v_token is distinct from p_token then
        return 'fenced';
    end if;
    if v_lease is distinct from p_lease then
        return 'recorded_before';
    end if;
    update completions c
    set lease = null,
        delivered_at = case p_outcome when 'delivered' then store_time(p_at) end,
        not_before = case p_outcome when 'retry' then store_time(p_at) + backoff_us(c.attempts, p_spread) end,
        error = case p_outcome when 'retry' then p_error else c.error end,
        attempts = case p_outcome when 'given_back' then greatest(c.attempts - 1, 0) else c.attempts end
    where c.batch = p_batch and c.generation = p_generation and c.lease = p_lease and c.token = p_token
      and c.delivered_at is null;
    if p_outcome = 'given_back' then
        perform tell('ended');
    end if;
    return 'recorded';
end $$;

-- O5: exponential backoff after so many tries (o5_backoff): 1 s doubled, at most 400 s, spread.
create or replace function backoff_us(p_used integer, p_spread integer) returns bigint
language plpgsql immutable as $$
begin
    return least(1000000 * 2::bigint ^ least(greatest(p_used - 1, 0), 16), 400000000)::bigint * p_spread / 1000;
end $$;

-- s7_after_lease_end: a lease that ends frees the calls that it holds; the caller has its lock.
create or replace function free_calls(p_lease bigint, p_recovered boolean, p_now bigint) returns void
language plpgsql volatile as $$
#variable_conflict use_column
begin
    perform 1 from completions c where c.lease = p_lease order by c.batch, c.generation for update;
    update completions c
    set lease = null, token = null,
        attempts = case when p_recovered then c.attempts else greatest(c.attempts - 1, 0) end,
        not_before = case when p_recovered then p_now + backoff_us(c.attempts, 1000) end
    where c.lease = p_lease;
    if found then
        perform tell('ended');
    end if;
end $$;

-- What people are shown: a batch's calls, as arrays with one place per generation; the live leases whose workers make calls.
create or replace function batch_calls(
    p_batch bigint, p_at bigint,
    out now_us bigint, out url text, out generations integer[], out statuses text[], out urls text[], out attempts integer[],
    out errors text[], out not_before bigint[], out workers text[], out delivered_at bigint[], out makers bigint[], out makes text[]
)
language plpgsql stable as $$
#variable_conflict use_column
begin
    now_us := store_time(p_at);
    url := (select b.on_done_url from batches b where b.batch = p_batch);
    select coalesce(array_agg(c.generation order by c.generation), '{}'),
           coalesce(array_agg(c.status order by c.generation), '{}'),
           coalesce(array_agg(c.url order by c.generation), '{}'),
           coalesce(array_agg(c.attempts order by c.generation), '{}'),
           coalesce(array_agg(c.error order by c.generation), '{}'),
           coalesce(array_agg(c.not_before order by c.generation), '{}'),
           coalesce(array_agg((select l.worker from leases l where l.lease = c.lease) order by c.generation), '{}'),
           coalesce(array_agg(c.delivered_at order by c.generation), '{}')
    into generations, statuses, urls, attempts, errors, not_before, workers, delivered_at
    from completions c where c.batch = p_batch;
    select coalesce(array_agg(l.lease order by l.lease), '{}'), coalesce(array_agg(l.calls order by l.lease), '{}')
    into makers, makes
    from leases l where l.state = 'live' and l.calls is not null;
end $$;
