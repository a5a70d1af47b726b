-- control_points: one row per label whose span was also measured left out, at most 2,000, drawn by a hash of their
-- keys: the value of its text against nothing, and of its gist. Nats per token, as in controls; num_labels
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
where action in ('expand', 'collapse')
order by hash(concat_ws(' ', snapshot_id, action, node_level, node_index)), snapshot_id
limit 2000
