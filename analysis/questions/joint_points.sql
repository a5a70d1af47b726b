-- joint_points: one row per set of actions measured together and cursor, at most 2,000, picked by a hash of what
-- they are: what all did at once, and the sum of what each did alone. Nats per token, as in joint_edits; num_sets
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
