-- priced: value of detail less the price of the positions it takes, nats per token. A row per label.
--   u = v - lambda * c, clipped to the action's sign (expand and insert max(0, u), collapse and drop min(0, u))
-- lambda is the snapshot's shadow price: with it the expands worth buying are paid by the collapses worth selling
-- (view shadow_prices; the budget is the snapshot's own length unless the variable `budget` is set). Null where no
-- price balances the budget.
select
    l.*,
    p.shadow_price,
    case
        when p.shadow_price is null then null -- greatest() would take the null for an absent argument
        when l.action in ('expand', 'insert') then greatest(0, l.value_of_detail - p.shadow_price * l.positions)
        else least(0, l.value_of_detail - p.shadow_price * l.positions)
    end as utility
from labels as l
join shadow_prices as p using (snapshot_id)
