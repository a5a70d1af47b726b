-- held_out: one row per labelled snapshot on which checkpoints are judged: those of the test split, else of
-- validation, else of any other split; in an order that depends only on their ids.
with labelled as (
    select distinct snapshot_id, trajectory_id, coalesce(split, '') as split
    from labels
)

select
    l.snapshot_id,
    l.split,
    t.model_hash,
    t.tokenizer_hash,
    t.gist_hash,
    t.dtype,
    t.block_size,
    t.max_level,
    t.semantics,
    t.gist_positions
from labelled as l
join trajectories as t using (trajectory_id)
where l.split = (
    select split
    from labelled
    order by case split when 'test' then 0 when 'validation' then 1 else 2 end, split
    limit 1
)
order by hash(snapshot_id), snapshot_id
