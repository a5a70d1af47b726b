-- held_out: one row per snapshot with labels on which checkpoints are judged: those of the test split, else of
-- validation, else of whatever there is; in an order that depends on nothing but their ids.
with labelled as (
    select distinct
        snapshot_id,
        coalesce(split, '') as split,
        model_hash,
        gist_hash,
        dtype
    from labels
)

select *
from labelled
where split = (
    select split
    from labelled
    order by case split when 'test' then 0 when 'validation' then 1 else 2 end, split
    limit 1
)
order by hash(snapshot_id), snapshot_id
