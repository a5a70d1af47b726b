-- joint_edits: one row per trajectory, cursor and set of actions measured together, at the collected horizon.
--   delta_nll        mean over the horizon's tokens of all actions at once, nats per token, after minus before
--   sum_of_singles   the same actions' own labels, added up
--   additivity_gap   delta_nll - sum_of_singles: 0 where edits do not interact
create view joint_edits as
with joints as (
    select
        j.trajectory_id || ':' || list_reduce(
            list_transform(j.actions, lambda a: a.action || '.' || a.node_level || '.' || a.node_index),
            lambda a, b: a || '+' || b
        ) as joint_id,
        j.*,
        unnest(t.cursors) as cursor,
        t.horizon
    from stored_joint_effects as j
    join trajectories as t using (trajectory_id)
    where j.status = 'ok'
),

singles as (
    select
        joint_id,
        cursor,
        sum(l.delta_nll) as sum_of_singles,
        count(*) as num_singles
    from (select joint_id, trajectory_id, cursor, unnest(actions) as one from joints)
    join labels as l using (trajectory_id, cursor)
    where l.action = one.action and l.node_level = one.node_level and l.node_index = one.node_index
    group by joint_id, cursor
),

measured as (
    select
        *,
        list_avg(delta_nll[cursor - first_token + 1 : cursor - first_token + horizon]) as joint_delta_nll
    from joints
)

select
    m.joint_id,
    m.trajectory_id,
    m.trajectory_id || ':' || m.cursor as snapshot_id,
    m.cursor,
    m.actions,
    len(m.actions) as num_actions,
    m.joint_delta_nll as delta_nll,
    s.sum_of_singles,
    m.joint_delta_nll - s.sum_of_singles as additivity_gap
from measured as m
join singles as s using (joint_id, cursor)
where s.num_singles = len(m.actions);
