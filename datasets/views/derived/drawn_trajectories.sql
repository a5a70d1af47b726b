-- drawn_trajectories, read through a derived dataset: of those that it has labels of.
create macro drawn_trajectories(most) as table
select trajectory_id
from trajectories
semi join stored_derived_labels using (trajectory_id)
order by md5(trajectory_id)
limit most;
