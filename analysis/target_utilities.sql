-- target_utilities: one row per target definition, action and entry_level: the utilities it derives from the
-- labels, nats per token. Reads the views literal_target and priced_target, which `mctrace report` makes of
-- datasets/targets. num_without_utility counts labels whose snapshot has no shadow price; they are left out of
-- the rest. Shares, mean and quantiles are weighted by 1 / inclusion_probability (all legal actions).
with utilities as (
    select 'literal' as target, action, entry_level, inclusion_probability, utility from literal_target
    union all
    select 'priced' as target, action, entry_level, inclusion_probability, utility from priced_target
),

ranked as (
    select
        target,
        action,
        entry_level,
        utility,
        1 / inclusion_probability as weight,
        sum(weight) filter (where utility is not null)
            over (partition by target, action, entry_level order by utility)
        -- Rounding in the running sum must not push a quantile to the next value.
        / sum(weight) filter (where utility is not null)
            over (partition by target, action, entry_level) + 1e-9 as share_up_to
    from utilities
)

select
    target,
    action,
    entry_level,
    count(*) as num_labels,
    count(*) - count(utility) as num_without_utility,
    coalesce(sum(weight) filter (where utility = 0), 0)
    / sum(weight) filter (where utility is not null) as share_zero,
    sum(weight * utility) / sum(weight) filter (where utility is not null) as mean,
    min(utility) filter (where share_up_to >= 0.05) as p05,
    min(utility) filter (where share_up_to >= 0.50) as p50,
    min(utility) filter (where share_up_to >= 0.95) as p95
from ranked
group by target, action, entry_level
order by target, action = 'collapse', action, entry_level
