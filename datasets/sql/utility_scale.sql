-- utility_scale: nats per token that make one unit of score, a single row. The robust spread of the value of
-- detail on the training split: the distance between its 5th and 95th percentile in units of a normal
-- distribution's, so that heavy tails do not decide it. Over the labels a trainer sees; where they were sampled with
-- unequal probabilities, each stands for 1 / inclusion probability of the actions that could have been measured.
with weighted as (
    select value_of_detail as v, 1 / inclusion_probability as w
    from labels
    where split = 'train' and value_of_detail is not null
),

ordered as (
    select v, w, (sum(w) over (order by v rows unbounded preceding) - w / 2) / sum(w) over () as place
    from weighted
),

quantiles as (
    select
        case
            when min(w) = max(w) then quantile_cont(v, 0.05)
            else coalesce(min(v) filter (place >= 0.05), max(v))
        end as low,
        case
            when min(w) = max(w) then quantile_cont(v, 0.95)
            else coalesce(min(v) filter (place >= 0.95), max(v))
        end as high
    from ordered
)

select (high - low) / (2 * 1.6449) as scale
from quantiles
