-- value_by_distance: one row per action, entry_level and bin of the distance from the node's end to the cursor:
-- the value of detail there, nats per token, at the collected horizon. The first bin is [0, 32) tokens, every
-- further one twice as far: [32, 64), [64, 128), ... Mean, median and quartiles are weighted by
-- 1 / inclusion_probability (all legal actions); the counts are not. A policy that keeps near text fine and far
-- text coarse ties level to distance, so compare distances within a level.
--   mean_stderr   standard error of the mean with documents as clusters; null with one document
-- asks: how does value fall with distance to the cursor?
with binned as (
    select
        action,
        entry_level,
        document_id,
        value_of_detail,
        1 / inclusion_probability as weight,
        case
            when distance_to_cursor < 32 then 0
            else 32 * (2 ** floor(log2(distance_to_cursor / 32)))
        end::bigint as distance_from
    from labels
),

ranked as (
    select
        *,
        sum(weight) over (partition by action, entry_level, distance_from order by value_of_detail)
        -- Rounding in the running sum must not push a quantile to the next value.
        / sum(weight) over (partition by action, entry_level, distance_from) + 1e-9 as share_up_to
    from binned
),

by_document as (
    select action, entry_level, distance_from, document_id, sum(weight * value_of_detail) as total, sum(weight) as weight
    from binned
    group by all
),

means as (
    select
        action,
        entry_level,
        distance_from,
        sum(total) / sum(weight) as mean,
        clustered_stderr(total, weight) as mean_stderr
    from by_document
    group by all
)

select
    action,
    entry_level,
    distance_from,
    greatest(2 * distance_from, 32) as distance_to,
    count(*) as num_labels,
    count(distinct document_id) as num_documents,
    any_value(mean) as mean,
    any_value(mean_stderr) as mean_stderr,
    min(value_of_detail) filter (where share_up_to >= 0.25) as p25,
    min(value_of_detail) filter (where share_up_to >= 0.50) as p50,
    min(value_of_detail) filter (where share_up_to >= 0.75) as p75
from ranked
join means using (action, entry_level, distance_from)
group by action, entry_level, distance_from
order by action = 'collapse', action, entry_level, distance_from
