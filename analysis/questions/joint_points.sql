-- joint_points: one row per set of actions measured together and cursor, at most 2,000, drawn by a hash of
-- their keys: the joint effect, and the sum of the single effects. Nats per token, as in joint_edits; num_sets
-- counts all there are.
select
    source,
    document_id,
    num_actions,
    delta_nll,
    sum_of_singles,
    additivity_gap,
    count(*) over () as num_sets
from joint_edits
order by hash(concat_ws(' ', joint_id, cursor)), joint_id, cursor
limit 2000
