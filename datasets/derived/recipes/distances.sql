-- distances: labels of nodes whose end is min_distance to max_distance tokens before the cursor. Variables:
-- min_distance (0), max_distance (no limit).
select *
from labels
where
    distance_to_cursor >= coalesce(getvariable('min_distance'), 0)
    and (getvariable('max_distance') is null or distance_to_cursor <= getvariable('max_distance'))
