-- labels, read through a derived dataset: one row per snapshot, node and action that its recipe kept or made, with
-- the columns that labels have. Their horizon is the one they were derived at; another one is an error.
create macro labels_at(h) as table
select * exclude (start, shadow_price) replace (coalesce(semantics, 're_encoded') as semantics)
from stored_derived_labels
where
    case
        when coalesce(h, horizon) = horizon then true
        else error(
            'horizon ' || h || ': this dataset was derived at ' || horizon
            || '; derive one at another (a recipe that reads labels_at(h)), or read the store itself'
        )
    end;

-- Drawn from the trajectories that the dataset has labels of, by the same hash.
create macro drawn_labels(most) as table
select * exclude (start, shadow_price) replace (coalesce(semantics, 're_encoded') as semantics)
from stored_derived_labels
where
    most is null
    or trajectory_id in (
        select trajectory_id
        from trajectories
        semi join stored_derived_labels using (trajectory_id)
        order by md5(trajectory_id)
        limit most
    );

-- A recipe keeps one value of a label, not what it is over parts of its horizon: any use of it is an error.
create macro label_halves(h, most) as table
with refused as (
    select
        *,
        error(
            'horizon ' || h || ': this dataset was derived at ' || horizon || ' and keeps no other; '
            || 'read the store itself'
        )::double as no_value
    from stored_derived_labels
)

select
    document_id,
    trajectory_id,
    cursor,
    action,
    node_level,
    node_index,
    entry_level,
    no_value as first_value,
    no_value as second_value
from refused;

create view labels as
select * exclude (start, shadow_price) replace (coalesce(semantics, 're_encoded') as semantics)
from stored_derived_labels;
