-- drawn_trajectories(most): at most `most` of the trajectories that have a measured action, drawn by a hash of their ids,
-- so always the same ones of the same version; all of them where there are no more, or where `most` is null.
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
