-- value_distribution: one row per action and entry_level: the distribution of the value of detail, nats per token,
-- at the collected horizon. Mean and quantiles are weighted by 1 / inclusion_probability (all legal actions); min,
-- max and the counts are not. A quantile is the smallest value that at least that share reaches.
--   effective_num_labels  (sum of weights)² / sum of squared weights: how many equally weighted labels the
--                         sampled ones are worth; labels of one document are not independent on top of that
--   mean_stderr           standard error of the mean with documents as clusters; null with one document
-- asks: how are values distributed by action and level?
with weighted as (
    select action, entry_level, document_id, value_of_detail, 1 / inclusion_probability as weight
    from labels
),

ranked as (
    select
        *,
        sum(weight) over (partition by action, entry_level order by value_of_detail)
        -- Rounding in the running sum must not push a quantile to the next value.
        / sum(weight) over (partition by action, entry_level) + 1e-9 as share_up_to
    from weighted
),

means as (
    select action, entry_level, sum(weight * value_of_detail) / sum(weight) as mean
    from weighted
    group by action, entry_level
),

by_document as (
    select action, entry_level, document_id, sum(weight * (value_of_detail - mean)) as residual
    from weighted
    join means using (action, entry_level)
    group by action, entry_level, document_id
),

spread as (
    select action, entry_level,
        case when count(*) > 1 then sqrt(count(*) / (count(*) - 1) * sum(residual ** 2)) end as deviation
    from by_document
    group by action, entry_level
)

select
    action,
    entry_level,
    count(*) as num_labels,
    count(distinct document_id) as num_documents,
    sum(weight) ** 2 / sum(weight ** 2) as effective_num_labels,
    sum(weight * value_of_detail) / sum(weight) as mean,
    any_value(deviation) / sum(weight) as mean_stderr,
    min(value_of_detail) as lowest,
    min(value_of_detail) filter (where share_up_to >= 0.05) as p05,
    min(value_of_detail) filter (where share_up_to >= 0.25) as p25,
    min(value_of_detail) filter (where share_up_to >= 0.50) as p50,
    min(value_of_detail) filter (where share_up_to >= 0.75) as p75,
    min(value_of_detail) filter (where share_up_to >= 0.95) as p95,
    max(value_of_detail) as highest
from ranked
join spread using (action, entry_level)
group by action, entry_level
order by action = 'collapse', action, entry_level
