-- snapshot_choice: one row per document: its snapshot most worth a look, best first. Held-out documents come
-- before those of the training split; among equals the snapshot with the most labels beyond two standard errors.
--   num_beyond     labels with |delta_nll| > 2 * greatest(stderr, hac_stderr)
--   widest_value   the largest |value_of_detail| of the snapshot, nats per token
-- Plain counts, no weights.
with counted as (
    select
        snapshot_id,
        trajectory_id,
        document_id,
        any_value(source) as source,
        any_value(split) as split,
        any_value(cursor) as cursor,
        count(*) as num_labels,
        count(*) filter (where abs(delta_nll) > 2 * greatest(stderr, hac_stderr)) as num_beyond,
        max(abs(value_of_detail)) as widest_value
    from labels
    group by snapshot_id, trajectory_id, document_id
)

select *
from counted
qualify row_number() over (
    partition by document_id order by num_beyond desc, widest_value desc, snapshot_id
) = 1
order by split is not distinct from 'train', num_beyond desc, widest_value desc, snapshot_id
