-- value_histogram: one row per action, entry_level and non-empty bin of the value of detail, nats per token.
-- 40 bins of one width reach from -r to r, where r is the 98th percentile of |value| over all labels; values
-- beyond lie in two open end bins, whose outer edge is null. An edge belongs to the bin above it.
-- share is of the group's legal actions, weighted by 1 / inclusion_probability; num_labels counts labels.
with scale as (
    select quantile_cont(abs(value_of_detail), 0.98) / 20 as width
    from labels
),

binned as (
    select
        action,
        entry_level,
        1 / inclusion_probability as weight,
        width,
        -- A width of zero means that nearly every value is zero: then there is the bin at zero and the ends.
        case
            when width > 0 then greatest(-21, least(20, floor(value_of_detail / width)))
            else 21 * sign(value_of_detail) - (value_of_detail > 0)::int
        end::int as bin
    from labels
    cross join scale
),

counted as (
    select action, entry_level, bin, width, count(*) as num_labels, sum(weight) as weight
    from binned
    group by action, entry_level, bin, width
)

select
    action,
    entry_level,
    case when bin > -21 then bin * width end as bin_from,
    case when bin < 20 then (bin + 1) * width end as bin_to,
    (bin + 0.5) * width as bin_centre,
    num_labels,
    weight / sum(weight) over (partition by action, entry_level) as share
from counted
order by action = 'collapse', action, entry_level, bin
