-- levels: labels of some actions and levels. Variables: entry_levels (a list like [1, 2]; all), actions (a list like
-- ["expand"]; both).
select *
from labels
where
    (getvariable('entry_levels') is null or list_contains(getvariable('entry_levels')::int[], entry_level::int))
    and (getvariable('actions') is null or list_contains(getvariable('actions')::varchar[], action))
