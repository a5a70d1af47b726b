-- octaves: one row per label and stretch of its horizon that doubles: the tokens [lag_from, lag_to) after the cursor,
-- [0, 1), [1, 2), [2, 4), ... up to the collected horizon. These few numbers give
-- a label at any of these horizons.
--   sum_value          value of detail summed over the stretch's tokens, nats
--   sum_squared_value  its squares, summed
-- drawn_octaves(most): of a sample of trajectories (drawn_trajectories).
-- public: octaves, drawn_octaves
create macro drawn_octaves(most) as table
with stretches as (
    select
        * exclude (delta_nll),
        case when action in ('expand', 'insert') then -1 else 1 end as sign,
        unnest(
            list_transform(
                range(0, ceil(log2(horizon))::bigint + 1),
                lambda i: case i when 0 then 0 else (2 ** (i - 1))::bigint end
            )
        ) as lag_from,
        delta_nll
    from drawn_token_effects(most)
),

cut as (
    select
        * exclude (delta_nll),
        least(greatest(2 * lag_from, 1), horizon) as lag_to,
        delta_nll[lag_from + 1 : least(greatest(2 * lag_from, 1), horizon)] as values
    from stretches
)

select
    * exclude (values, sign),
    sign * list_sum(values) as sum_value,
    list_inner_product(values, values)::double as sum_squared_value
from cut;

create view octaves as from drawn_octaves(null);
