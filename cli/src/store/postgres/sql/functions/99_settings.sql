-- What the functions called from outside run under, whatever the connection, role or pooler says.
--
-- Plans: every statement in them finds its records by an index, whatever the statistics say. So sequential scans are priced
-- out, and bitmap scans too, which read a whole partial index where it looks small; plans are generic (made once, not by the
-- values at hand), and neither compiled nor parallel. The search path is the store's schema alone; temporary tables
-- come last.
do $$
declare
    v_function regprocedure;
begin
    for v_function in
        select p.oid from pg_proc p
        where p.pronamespace = current_schema()::regnamespace
          and p.proname in ('take_lease', 'renew', 'drop_lease', 'look', 'cut_back', 'claim', 'settle_claim', 'claimed_rows',
                            'fence', 'record_answers', 'give_back', 'recover', 'withdraw_crashes',
                            'begin_load', 'advance_load', 'finish_load', 'remove_load_slice',
                            'begin_append', 'advance_append', 'finish_append', 'remove_append_slice',
                            'batch_views', 'batches_with_prefix', 'batch_status', 'worker_views', 'row_page', 'result_page',
                            'input_page', 'row_story', 'failed_rows', 'error_page', 'stopping_of', 'stopping_batches',
                            'hold_batch', 'abort_batch', 'retry_rows',
                            'purgeable', 'begin_purge', 'purge_slice', 'purge_leases',
                            'claim_call', 'record_call', 'batch_calls')
    loop
        execute format('alter function %s set search_path from current', v_function);
        execute format('alter function %s set jit = off', v_function);
        execute format('alter function %s set plan_cache_mode = force_generic_plan', v_function);
        execute format('alter function %s set enable_seqscan = off', v_function);
        execute format('alter function %s set enable_bitmapscan = off', v_function);
        execute format('alter function %s set max_parallel_workers_per_gather = 0', v_function);
    end loop;
end $$;
