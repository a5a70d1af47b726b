-- top_labels: the 20 actions with the highest value of detail, nats per token, at the collected horizon; one row
-- per trajectory, node and action, at the cursor where its value is highest (num_cursors: how many it has).
-- No weights. They are picked because they came out high, so the same nodes would mostly measure lower again.
select
    arg_max(source, value_of_detail) as source,
    arg_max(split, value_of_detail) as split,
    action,
    entry_level,
    node_level,
    node_index,
    arg_max(cursor, value_of_detail) as cursor,
    arg_max(distance_to_cursor, value_of_detail) as distance_to_cursor,
    max(value_of_detail) as value_of_detail,
    arg_max(stderr, value_of_detail) as stderr,
    arg_max(horizon, value_of_detail) as horizon,
    count(*) as num_cursors,
    document_id,
    trajectory_id
from labels
group by document_id, trajectory_id, action, entry_level, node_level, node_index, estimator
order by max(value_of_detail) desc, trajectory_id, action, node_level, node_index
limit 20
