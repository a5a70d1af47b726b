-- surplus: value of detail over the price of the positions it takes, nats per token, of either sign. A row per label.
--   u = v - lambda * c, lambda the snapshot's shadow price as for `priced`, but nothing is clipped: an expand not worth
--   its positions has a negative utility, a collapse that costs more than it frees a positive one
-- The mean of what is clipped is not the clipped mean: a net that learns `priced` and cannot tell good expands from bad
-- scores all of them above 0, and edits made on such scores lose on average. Here its scores are expected gains.
-- merge: mean
select
    l.*,
    p.shadow_price,
    l.value_of_detail - p.shadow_price * l.positions as utility
from labels as l
join shadow_prices as p using (snapshot_id)
