-- value_by_horizon: one row per action, entry_level and horizon of 1, 2, 4, ... tokens up to the collected one: the
-- dependence of labels on the horizon. From the per-token effects of at most `most_trajectories` trajectories (a
-- variable; 300), drawn by a hash of their ids: nothing is measured again. Labels count once each, unweighted; nats per
-- token.
--   mean, spread    of the value of detail, and its standard deviation over labels
--   median_abs      median size of a value
--   median_stderr   median standard error over the horizon's tokens; null at a horizon of one
--   share_beyond    labels more than two standard errors from zero, allowing for correlated neighbours: signal against noise
-- asks: how do labels depend on the horizon?
with cut as (
    select
        action,
        entry_level,
        case when action in ('expand', 'insert') then -1 else 1 end as sign,
        unnest(
            list_append(list_transform(range(ceil(log2(horizon))::bigint), lambda i: (2 ** i)::bigint), horizon)
        ) as horizon,
        delta_nll
    from drawn_token_effects(coalesce(getvariable('most_trajectories'), 300))
),

sums as (
    select
        action,
        entry_level,
        horizon,
        sign * list_sum(delta_nll[: horizon]) as sum_value,
        list_inner_product(delta_nll[: horizon]::double[], delta_nll[: horizon]::double[]) as sum_squared_value,
        newey_west_stderr(delta_nll[: horizon]) as hac_stderr
    from cut
),

labels_at_horizons as (
    select
        action,
        entry_level,
        horizon,
        sum_value / horizon as value_of_detail,
        case
            when horizon > 1
                then sqrt(greatest(sum_squared_value - sum_value ** 2 / horizon, 0) / (horizon - 1) / horizon)
        end as stderr,
        hac_stderr
    from sums
)

select
    action,
    entry_level,
    horizon,
    count(*) as num_labels,
    avg(value_of_detail) as mean,
    stddev_samp(value_of_detail) as spread,
    median(abs(value_of_detail)) as median_abs,
    median(stderr) as median_stderr,
    avg((abs(value_of_detail) > 2 * greatest(stderr, hac_stderr))::int) as share_beyond
from labels_at_horizons
group by action, entry_level, horizon
order by action = 'collapse', action, entry_level, horizon
