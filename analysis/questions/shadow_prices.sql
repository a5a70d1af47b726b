-- shadow_prices: one row per 5% of the snapshots: percent of them have a price of one edit of at most edit_price:
-- the shadow price times the positions an edit takes, nats per token, comparable with a value of detail.
-- Reads the view priced_target, which `mctrace report` makes of datasets/sql/targets. A snapshot counts
-- once; the price itself was found with weights 1 / inclusion_probability, and is rough where few actions were
-- sampled. num_snapshots have labels, num_without_price no price that
-- balances the budget; no rows without any price.
-- asks: how are prices of one edit distributed over snapshots?
with prices as (
    select snapshot_id, any_value(shadow_price * positions) as edit_price
    from priced_target
    group by snapshot_id
),

quantiles as (
    select
        count(*) as num_snapshots,
        count(*) - count(edit_price) as num_without_price,
        count(*) filter (where edit_price = 0) as num_zero,
        quantile_disc(edit_price, [percent / 100 for percent in range(0, 101, 5)]) as edit_prices
    from prices
)

select
    unnest(range(0, 101, 5)) as percent,
    unnest(edit_prices) as edit_price,
    num_snapshots,
    num_without_price,
    num_zero
from quantiles
where num_snapshots > num_without_price
