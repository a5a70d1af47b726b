-- balanced: on the training split about as many labels of every action and entry_level: `ratio` times those of the
-- rarest, drawn by seed. inclusion_probability says so; validation and test stay whole. Variables: ratio (1).
with counts as (
    select action, entry_level, count(*) as num_labels
    from labels
    where split = 'train'
    group by action, entry_level
),

kept as (
    select
        action,
        entry_level,
        least(1, coalesce(getvariable('ratio'), 1) * (select min(num_labels) from counts) / num_labels) as share
    from counts
)

select l.* replace (
    case l.split when 'train' then l.inclusion_probability * k.share else l.inclusion_probability end
    as inclusion_probability
)
from labels as l
left join kept as k using (action, entry_level)
where
    l.split <> 'train'
    or chance(concat_ws(':', l.snapshot_id, action, l.node_level, l.node_index), getvariable('seed')) < k.share
