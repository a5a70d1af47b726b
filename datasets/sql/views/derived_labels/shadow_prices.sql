-- shadow_prices, read through a derived dataset: the price each snapshot had where it was derived from, since a filter
-- takes supply and demand away. Found on the dataset's own labels for snapshots that its recipe made, and for all of
-- them when the variable `budget` is set.
create view kept_prices as
select snapshot_id, any_value(shadow_price) as shadow_price
from stored_derived_labels
where getvariable('budget') is null
group by snapshot_id
having any_value(shadow_price) is not null;

create view unpriced_labels as
from labels
anti join kept_prices using (snapshot_id);

create view shadow_prices as
from kept_prices
union all
from balancing_prices_of('unpriced_labels');
