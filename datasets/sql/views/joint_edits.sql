-- joint_edits: one row per trajectory, cursor and set of actions measured together, all of it exact. joint_edits is
-- at the collected horizon, joint_edits_at(h) at any shorter one.
--   delta_nll        mean over the horizon's tokens of all actions at once, nats per token, after minus before
--   sum_of_singles   the same actions' own effects, added up
--   additivity_gap   delta_nll - sum_of_singles: 0 where edits do not interact
-- public: joint_edits, joint_edits_at
create macro joint_edits_at(h) as table
with joints as (
    -- the same set may have been drawn for a smaller and for a larger number of sets
    select distinct on (joint_id)
        j.trajectory_id || ':' || list_reduce(
            list_transform(j.actions, lambda a: a.action || '.' || a.node_level || '.' || a.node_index),
            lambda a, b: a || '+' || b
        ) as joint_id,
        j.*,
        t.run_id, t.document_id, t.source, t.split, t.policy, t.model_hash, t.gist_hash, t.dtype, t.semantics, t.cursors,
        case
            when coalesce(h, t.horizon) between 1 and t.horizon then coalesce(h, t.horizon)
            else error('horizon ' || h || ' is outside 1 to ' || t.horizon || ', the tokens measured')
        end as horizon
    from stored_joint_effects as j
    join trajectories as t using (trajectory_id)
    where j.status = 'ok'
),

at_cursors as (
    select *, unnest(cursors) as cursor
    from joints
),

measured as (
    select
        * exclude (delta_nll, sum_of_singles),
        list_avg(delta_nll[cursor - first_token + 1 : cursor - first_token + horizon]) as delta_nll,
        list_avg(sum_of_singles[cursor - first_token + 1 : cursor - first_token + horizon]) as sum_of_singles
    from at_cursors
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
    delta_nll,
    sum_of_singles,
    delta_nll - sum_of_singles as additivity_gap,
    model_hash,
    gist_hash,
    dtype,
    semantics
from measured;

create view joint_edits as from joint_edits_at(null);
