-- value: the value of detail itself, nats per token, of either sign and without a price. A row per label.
-- Clipped targets (`priced`, `literal`) are learned with a bias: the mean of what is clipped is not the clipped mean.
-- A net that cannot tell the expands of a context apart learns E[max(0, u)] for each, which is above 0, and so for
-- collapses below 0; it asks for edits that lose on average. The mean of values is their expectation. Which edits are
-- worth their positions is settled by a price where they are chosen (context/pricing.py).
-- merge: mean
select *, value_of_detail as utility
from labels
