-- target_utilities: one row per target definition, action and entry_level: the utilities it derives from the
-- labels, nats per token. Reads the views literal_target and priced_target, which `mctrace report` makes of
-- datasets/sql/targets. num_without_utility counts labels whose snapshot has no shadow price; they are left out of
-- the rest. Shares, mean and quantiles are weighted by 1 / inclusion_probability (all legal actions); quantiles are
-- found among bins of 1e-5 nats and are the smallest utility of theirs.
-- asks: what utilities does each target derive from the labels?
with utilities as (
    select 'literal' as target, action, entry_level, inclusion_probability, utility from literal_target
    union all
    select 'priced' as target, action, entry_level, inclusion_probability, utility from priced_target
),

-- A sort of all labels would take most of the time, and a hundred-thousandth of a nat is far below their noise.
binned as (
    select
        target,
        action,
        entry_level,
        count(*) as num_labels,
        min(utility) as utility,
        utility = 0 as is_zero,
        sum(1 / inclusion_probability) as weight,
        sum(utility / inclusion_probability) as total
    from utilities
    group by target, action, entry_level, is_zero, floor(utility * 1e5)
),

ranked as (
    select
        *,
        sum(weight) filter (where utility is not null)
            over (partition by target, action, entry_level order by utility)
        -- Rounding in the running sum must not push a quantile to the next value.
        / sum(weight) filter (where utility is not null)
            over (partition by target, action, entry_level) + 1e-9 as share_up_to
    from binned
)

select
    target,
    action,
    entry_level,
    sum(num_labels)::bigint as num_labels,
    coalesce(sum(num_labels) filter (where utility is null), 0)::bigint as num_without_utility,
    coalesce(sum(weight) filter (where is_zero), 0)
    / sum(weight) filter (where utility is not null) as share_zero,
    sum(total) / sum(weight) filter (where utility is not null) as mean,
    min(utility) filter (where share_up_to >= 0.05) as p05,
    min(utility) filter (where share_up_to >= 0.50) as p50,
    min(utility) filter (where share_up_to >= 0.95) as p95
from ranked
group by target, action, entry_level
order by target, action = 'collapse', action, entry_level
