-- snapshot_cursors: one row per snapshot: the trajectory whose map it shows, its cursor, and the first token it
-- shows. A derived dataset adds snapshots of its own: other cursors, or a later start.
create view snapshot_cursors as
select
    trajectory_id || ':' || cursor as snapshot_id,
    trajectory_id,
    cursor,
    start
from (
    select trajectory_id, start, unnest(cursors) as cursor
    from trajectories
);
