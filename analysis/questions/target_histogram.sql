-- target_histogram: one row per target definition, action and non-empty bin of its utilities other than zero,
-- nats per token. Reads the views literal_target and priced_target, which `mctrace report` makes of
-- datasets/sql/targets. 40 bins of one width reach from -r to r, where r is the 98th percentile of |utility| over
-- both targets, zeros aside; values beyond lie in two open end bins, whose outer edge is null. An edge
-- belongs to the bin above it.
-- share is of all legal actions of that kind with a utility, zeros among them, weighted by
-- 1 / inclusion_probability: the bars of an action add up to one less its share of zeros.
with utilities as (
    select 'literal' as target, action, 1 / inclusion_probability as weight, utility from literal_target
    union all
    select 'priced' as target, action, 1 / inclusion_probability as weight, utility from priced_target
),

totals as (
    select target, action, sum(weight) as total_weight
    from utilities
    where utility is not null
    group by target, action
),

scale as (
    select quantile_cont(abs(utility), 0.98) / 20 as width
    from utilities
    where utility <> 0
),

counted as (
    select
        target,
        action,
        width,
        greatest(-21, least(20, floor(utility / width)))::int as bin,
        count(*) as num_labels,
        sum(weight) as weight
    from utilities
    cross join scale
    where utility <> 0
    group by all
)

select
    target,
    action,
    case when bin > -21 then bin * width end as bin_from,
    case when bin < 20 then (bin + 1) * width end as bin_to,
    (bin + 0.5) * width as bin_centre,
    num_labels,
    weight / total_weight as share
from counted
join totals using (target, action)
order by target, action = 'collapse', action, bin
