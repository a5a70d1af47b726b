-- quarantined: one row per item that a collection run gave up and none has measured since: what, of which document,
-- why, after how many tries. mctrace collect --retry-quarantined measures them again.
-- public: quarantined
create view quarantined as
with measured as (
    select 'trajectory' as kind, trajectory_id from stored_trajectories
    union all
    select distinct 'drops', trajectory_id from stored_effects where action = 'drop'
    union all
    select distinct 'joints', trajectory_id from stored_joint_effects
    union all
    select 'attention', trajectory_id from stored_attention
)

select distinct on (q.part_id)
    q.trajectory_id,
    q.kind,
    q.document_id,
    q.source,
    q.reason,
    q.num_attempts,
    q.run_id,
    q.recorded_at
from stored_quarantined as q
anti join measured using (kind, trajectory_id)
order by q.part_id, q.recorded_at desc;
