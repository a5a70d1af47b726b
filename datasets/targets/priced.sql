-- priced: value of detail less the price of the positions it takes, nats per token. A row per label.
--   u = v - lambda * c, clipped to the action's sign (expand max(0, u), collapse min(0, u))
-- lambda is the snapshot's shadow price: the smallest lambda >= 0 (nats per token and position) at which
--   N + sum of c over expands with v > lambda * c - sum of c over collapses with v < lambda * c <= budget
-- where a sampled action weighs 1 / inclusion_probability and the budget is the snapshot's own N unless the
-- variable `budget` is set. Sorted by density v / c, everything up to lambda is either an expand not bought or
-- a collapse sold, so lambda is the first density at which the running weight reaches
--   (weight of all expands) - (budget - N)
-- and null where no price balances the budget.
with weighted as (
    select
        *,
        value_of_detail / positions as density,
        positions / inclusion_probability as weight
    from labels
),

needs as (
    select
        w.snapshot_id,
        coalesce(sum(w.weight) filter (where w.action = 'expand'), 0)
        - coalesce(getvariable('budget') - any_value(s.num_entries), 0) as need
    from weighted as w
    join snapshots as s using (snapshot_id)
    group by w.snapshot_id
),

cut as (
    select
        snapshot_id,
        greatest(density, 0) as density,
        sum(weight) over (
            partition by snapshot_id order by density range between unbounded preceding and current row
        ) as reached
    from weighted
),

prices as (
    select
        n.snapshot_id,
        -- Rounding in the running sums must not push an exact balance over the edge.
        case
            when n.need <= 1e-6 then 0
            else min(c.density) filter (where c.reached >= n.need - 1e-6)
        end as shadow_price
    from needs as n
    left join cut as c using (snapshot_id)
    group by n.snapshot_id, n.need
)

select
    w.* exclude (density, weight),
    p.shadow_price,
    case
        when p.shadow_price is null then null -- greatest() would take the null for an absent argument
        when w.action = 'expand' then greatest(0, w.value_of_detail - p.shadow_price * w.positions)
        else least(0, w.value_of_detail - p.shadow_price * w.positions)
    end as utility
from weighted as w
join prices as p using (snapshot_id)
