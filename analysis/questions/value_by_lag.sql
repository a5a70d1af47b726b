-- value_by_lag: one row per action, entry_level and stretch of the horizon that doubles, [0, 1), [1, 2), [2, 4), ...
-- tokens after the cursor: the decay of the value of detail with lag. Nats per token, from the per-token effects of at
-- most `most_trajectories` trajectories (a variable; 300), drawn by a hash of their ids, weighted by
-- 1 / inclusion_probability (all legal actions); num_labels is not.
--   mean      mean value of detail over the stretch's tokens
--   mean_stderr  standard error of the mean with documents as clusters; null with one document
--   mean_abs  mean size of a label's mean over the stretch: short stretches are noisier, so it falls with
--             their length even where nothing decays
--   share_of_horizon  the stretch's part of the value summed over the whole horizon
-- asks: how does value decay with lag behind the cursor?
with values as (
    select
        *,
        sum_value / inclusion_probability as weighted_value,
        1 / inclusion_probability as weight,
        lag_to - lag_from as num_tokens
    from drawn_octaves(coalesce(getvariable('most_trajectories'), 300))
),

by_document as (
    select action, entry_level, lag_from, document_id,
        sum(weighted_value) as total,
        sum(weight * num_tokens) as weight
    from values
    group by all
),

means as (
    select
        action,
        entry_level,
        lag_from,
        sum(total) / sum(weight) as mean,
        clustered_stderr(total, weight) as mean_stderr
    from by_document
    group by all
)

select
    action,
    entry_level,
    lag_from,
    max(lag_to) as lag_to,
    count(*) as num_labels,
    any_value(mean) as mean,
    any_value(mean_stderr) as mean_stderr,
    sum(abs(weighted_value) / num_tokens) / sum(weight) as mean_abs,
    sum(weighted_value) / nullif(sum(sum(weighted_value)) over (partition by action, entry_level), 0)
    as share_of_horizon
from values
join means using (action, entry_level, lag_from)
group by action, entry_level, lag_from
order by action = 'collapse', action, entry_level, lag_from
