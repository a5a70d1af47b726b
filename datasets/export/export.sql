-- export: one row per snapshot that has a label which fits, its labels in `actions`, oldest node first. In braces
-- stand the targets' utilities, the joins that bring them to their labels, and a condition on all these columns.
with labelled as (
    select l.*, {columns}
    from labels as l
    {joins}
),

chosen as (
    select
        snapshot_id,
        list({{
            'action': action, 'node_level': node_level, 'node_index': node_index, 'entry_level': entry_level,
            'distance_to_cursor': distance_to_cursor, 'positions': positions,
            'delta_nll': delta_nll, 'stderr': stderr, 'value_of_detail': value_of_detail,
            'inclusion_probability': inclusion_probability, 'estimator': estimator,
            'attention_mass': attention_mass, {fields}
        }} order by node_index * block_size ** node_level, node_level, action) as actions
    from (
        select l.*, t.block_size
        from labelled as l
        join stored_trajectories as t using (trajectory_id)
        where (
            {where}
        )
    )
    group by snapshot_id
)

select
    s.snapshot_id, s.trajectory_id, s.run_id, s.document_id, s.source, s.split, s.policy,
    s.cursor, s.cursor_offset, s.start, s.horizon, s.baseline_nll, s.num_entries, s.num_positions,
    t.first_cursor, t.levels, t.protected_tail, t.block_size, t.max_level,
    t.model_hash, t.tokenizer_hash, t.gist_hash, t.dtype, t.semantics, t.gist_positions,
    c.actions
from chosen as c
join snapshots as s using (snapshot_id)
join (
    from trajectories
    semi join stored_documents using (document_id, model_hash, gist_hash, dtype, block_size, max_level)
) as t using (trajectory_id)
order by s.document_id, s.trajectory_id, s.cursor
