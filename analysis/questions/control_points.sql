-- control_points: one row per label whose span was also measured left out, at most 2,000, picked by a hash of what
-- they are: what its text is worth against nothing, and what its gist is. Nats per token, as in controls; num_labels
-- counts all there are.
select
    action,
    entry_level,
    node_level,
    node_index,
    source,
    document_id,
    information_value,
    gist_value,
    value_of_detail,
    count(*) over () as num_labels
from controls
order by hash(concat_ws(' ', snapshot_id, action, node_level, node_index)), snapshot_id
limit 2000
