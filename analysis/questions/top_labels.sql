-- top_labels: the 20 actions with the highest value of detail, nats per token, at the collected horizon; one row
-- per trajectory, node and action, at the cursor where its value is highest (num_cursors: how many it has).
-- No weights. They are picked for coming out high, so measured again the same nodes would mostly come out lower.
-- asks: which edits are worth most?
select
    source,
    split,
    action,
    entry_level,
    node_level,
    node_index,
    cursor,
    distance_to_cursor,
    value_of_detail,
    stderr,
    horizon,
    count(*) over same_action as num_cursors,
    document_id,
    trajectory_id
from labels
window same_action as (partition by trajectory_id, action, node_level, node_index, estimator)
qualify row_number() over (same_action order by value_of_detail desc, cursor) = 1
order by value_of_detail desc, trajectory_id, action, node_level, node_index
limit 20
