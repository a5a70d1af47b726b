-- value_and_price: the value of detail of each action, for a network that gives a price too. A row per label.
-- The same utilities as `value`. The network has a value for each direction of an entry, so those of an entry that can
-- both expand and collapse are not merged, and a price of a position: u = v - price * positions is its signed score.
-- merge: separate
select *, value_of_detail as utility
from labels
