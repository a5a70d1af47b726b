-- stride: every stride-th snapshot of each trajectory, from one that the seed draws. Variables: stride (2).
select l.*
from labels as l
join trajectories as t using (trajectory_id)
where
    (
        list_position(t.cursors, l.cursor)
        + floor(coalesce(getvariable('stride'), 2) * chance(trajectory_id, getvariable('seed')))::bigint
    ) % coalesce(getvariable('stride'), 2)::bigint = 0
