-- drawn_trajectories(most): one row per trajectory that has a measured action: at most `most` of them, drawn by a hash of
-- their ids, so always the same ones of the same version; all where there are no more, or where `most` is null.
-- public: drawn_trajectories
create macro drawn_trajectories(most) as table
select trajectory_id
from trajectories
semi join (
    from effects
    join (select trajectory_id, absence from stored_trajectories) using (trajectory_id)
    where status = 'ok' and not is_control(action, node_level, entry_level, absence)
) using (trajectory_id)
order by md5(trajectory_id)
limit most;
