-- labels, read through a derived dataset: one row per snapshot, node and action that its recipe kept or made, with
-- the columns that labels have. Their horizon is the one they were derived at; another one is an error.
create macro labels_at(h) as table
select * exclude (start, shadow_price)
from stored_derived_labels
where
    case
        when coalesce(h, horizon) = horizon then true
        else error(
            'horizon ' || h || ': this dataset was derived at ' || horizon
            || '; derive one at another (a recipe that reads labels_at(h)), or read the store itself'
        )
    end;

create view labels as from labels_at(null);
