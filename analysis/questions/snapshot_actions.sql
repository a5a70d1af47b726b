-- snapshot_actions: one row per label with its utilities under the targets and its controls. Nats per token, at the
-- collected horizon.
--   priced, literal     the utility under each target; priced is null where the snapshot has no shadow price
--   edit_price          shadow price times positions: the price of an edit in this snapshot
--   information_value, gist_value  as in controls; null where the span was not measured left out
-- Reads the views literal_target and priced_target, which `mctrace report` and `mctrace show` make of
-- datasets/sql/targets.
select
    l.snapshot_id,
    l.action,
    l.node_level,
    l.node_index,
    l.entry_level,
    l.distance_to_cursor,
    l.positions,
    l.delta_nll,
    l.stderr,
    l.value_of_detail,
    l.inclusion_probability,
    l.estimator,
    l.attention_mass,
    p.utility as priced,
    p.shadow_price * p.positions as edit_price,
    t.utility as literal,
    c.information_value,
    c.gist_value
from labels as l
left join priced_target as p using (snapshot_id, action, node_level, node_index, estimator)
left join literal_target as t using (snapshot_id, action, node_level, node_index, estimator)
left join controls as c using (snapshot_id, action, node_level, node_index, estimator)
order by l.snapshot_id, l.action = 'collapse', l.node_level, l.node_index
