-- shadow_prices: one row per snapshot with labels: what a position of its working context is worth, nats per token
-- and position; null where no price balances the budget (see balancing_prices).
-- public: shadow_prices
create view shadow_prices as
select *
from balancing_prices;
