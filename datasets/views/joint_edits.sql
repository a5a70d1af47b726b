-- joint_edits: one row per trajectory, cursor and set of actions measured together, all of it exact. joint_edits is
-- at the collected horizon, joint_edits_at(h) at any shorter one.
--   delta_nll        mean over the horizon's tokens of all actions at once, nats per token, after minus before
--   sum_of_singles   the same actions' own labels, added up
--   additivity_gap   delta_nll - sum_of_singles: 0 where edits do not interact
create macro joint_edits_at(h) as table
with joints as (
    select
        j.trajectory_id || ':' || list_reduce(
            list_transform(j.actions, lambda a: a.action || '.' || a.node_level || '.' || a.node_index),
            lambda a, b: a || '+' || b
        ) as joint_id,
        j.*,
        t.run_id, t.document_id, t.source, t.split, t.policy, t.model_hash, t.gist_hash, t.dtype,
        unnest(t.cursors) as cursor
    from stored_joint_effects as j
    join trajectories as t using (trajectory_id)
    where j.status = 'ok'
),

singles as (
    select
        joint_id,
        cursor,
        any_value(l.horizon) as horizon,
        sum(l.delta_nll) as sum_of_singles,
        count(*) as num_singles
    from (select joint_id, trajectory_id, cursor, unnest(actions) as one from joints)
    join labels_at(h) as l using (trajectory_id, cursor)
    where l.action = one.action and l.node_level = one.node_level and l.node_index = one.node_index
    and l.estimator = 'exact'
    group by joint_id, cursor
),

measured as (
    select
        j.*,
        s.horizon,
        s.sum_of_singles,
        list_avg(j.delta_nll[j.cursor - j.first_token + 1 : j.cursor - j.first_token + s.horizon]) as joint_delta_nll
    from joints as j
    join singles as s using (joint_id, cursor)
    where s.num_singles = len(j.actions)
)

select
    joint_id,
    run_id,
    trajectory_id,
    trajectory_id || ':' || cursor as snapshot_id,
    document_id,
    source,
    split,
    policy,
    cursor,
    actions,
    len(actions) as num_actions,
    horizon,
    joint_delta_nll as delta_nll,
    sum_of_singles,
    joint_delta_nll - sum_of_singles as additivity_gap,
    model_hash,
    gist_hash,
    dtype
from measured;

create view joint_edits as from joint_edits_at(null);
