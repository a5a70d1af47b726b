-- snapshot_cursors, read through a derived dataset: the store's snapshots and those that the dataset made.
create view snapshot_cursors as
with of_store as (
    select
        trajectory_id || ':' || cursor as snapshot_id,
        trajectory_id,
        cursor,
        start
    from (
        select trajectory_id, start, unnest(cursors) as cursor
        from trajectories
    )
),

of_dataset as (
    select distinct
        d.snapshot_id,
        d.trajectory_id,
        d.cursor,
        coalesce(d.start, t.start) as start
    from stored_derived_labels as d
    join trajectories as t using (trajectory_id)
)

from of_store
union all
from (
    from of_dataset
    anti join of_store using (snapshot_id)
);
