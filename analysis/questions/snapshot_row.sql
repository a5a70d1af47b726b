-- snapshot_row: one row per snapshot: its place, its map, and what its numbers depend on.
-- levels is the trajectory's map at its first cursor; baseline_nll nats per token over the horizon.
select
    s.snapshot_id,
    s.trajectory_id,
    s.run_id,
    s.document_id,
    s.source,
    s.split,
    s.policy,
    s.cursor,
    s.horizon,
    s.num_entries,
    s.num_positions,
    s.baseline_nll,
    t.start,
    t.levels,
    t.first_cursor,
    t.protected_tail,
    t.block_size,
    t.max_level,
    t.semantics,
    t.gist_positions,
    coalesce(t.absence, 'off') as absence,
    t.model_hash,
    t.tokenizer_hash,
    t.gist_hash,
    t.dtype,
    d.arrays,
    d.first_rows,
    d.num_tokens
from snapshots as s
join trajectories as t using (trajectory_id)
left join stored_documents as d
    on d.document_id = t.document_id and d.model_hash = t.model_hash and d.gist_hash = t.gist_hash
    and d.dtype = t.dtype and d.block_size = t.block_size and d.max_level = t.max_level
order by s.trajectory_id, s.cursor
