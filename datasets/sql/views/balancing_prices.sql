-- balancing_prices: one row per snapshot with labels: its shadow price lambda, nats per token and position, found on
-- those labels: the smallest lambda >= 0 at which
--   N + sum of c over expands with v > lambda * c - sum of c over collapses with v < lambda * c <= budget
-- (inserts count among the expands, drops among the collapses) where v is the value of detail, c the positions, a sampled action weighs 1 / inclusion_probability, and the budget
-- is the snapshot's own N unless the variable `budget` is set. Sorted by density v / c, everything up to lambda is
-- either an expand not bought or a collapse sold, so lambda is the first density at which the running weight reaches
--   (weight of all expands) - (budget - N)
-- and null where no price balances the budget.
-- balancing_prices_of(view): found on a view with the columns of labels.
-- A snapshot's densities are sorted and walked through as a list: windows over all labels take several times as long.
create macro balancing_prices_of(labels_view) as table
with weighted as (
    select
        snapshot_id,
        action,
        value_of_detail / positions as density,
        positions / inclusion_probability as weight
    from query_table(labels_view)
),

rising as (
    select
        snapshot_id,
        list_sort(list({'density': density, 'reached': weight})) as steps,
        coalesce(sum(weight) filter (where action in ('expand', 'insert')), 0) as weight_of_expands
    from weighted
    group by snapshot_id
),

needs as (
    select
        r.snapshot_id,
        r.steps,
        -- Rounding in the running sums must not push an exact balance over the edge.
        r.weight_of_expands - coalesce(getvariable('budget') - s.num_positions, 0) - 1e-6 as need
    from rising as r
    join snapshots as s using (snapshot_id)
),

cuts as (
    select
        snapshot_id,
        need,
        list_reduce(
            steps,
            lambda done, step:
                case
                    when done.reached >= need then done
                    else {'density': step.density, 'reached': done.reached + step.reached}
                end
        ) as cut
    from needs
)

select
    snapshot_id,
    case
        when need <= 0 then 0
        when cut.reached >= need then greatest(cut.density, 0)
    end as shadow_price
from cuts;

create view balancing_prices as from balancing_prices_of('labels');
