-- balancing_prices: one row per snapshot with labels: its shadow price lambda, nats per token and position, found on
-- those labels: the smallest lambda >= 0 at which
--   N + sum of c over expands with v > lambda * c - sum of c over collapses with v < lambda * c <= budget
-- where v is the value of detail, c the positions, a sampled action weighs 1 / inclusion_probability, and the budget
-- is the snapshot's own N unless the variable `budget` is set. Sorted by density v / c, everything up to lambda is
-- either an expand not bought or a collapse sold, so lambda is the first density at which the running weight reaches
--   (weight of all expands) - (budget - N)
-- and null where no price balances the budget.
create view balancing_prices as
with weighted as (
    select
        snapshot_id,
        action,
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
)

select
    n.snapshot_id,
    -- Rounding in the running sums must not push an exact balance over the edge.
    case
        when n.need <= 1e-6 then 0
        else min(c.density) filter (where c.reached >= n.need - 1e-6)
    end as shadow_price
from needs as n
left join cut as c using (snapshot_id)
group by n.snapshot_id, n.need;
