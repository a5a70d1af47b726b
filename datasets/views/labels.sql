-- labels: one row per run, trajectory, cursor, node and action that is legal at that cursor.
--   delta_nll        mean over the horizon's tokens, nats per token, after minus before
--   stderr           its standard error over those tokens; null at a horizon of one
--   value_of_detail  NLL(coarse) - NLL(fine): -delta_nll of an expand, +delta_nll of a collapse
--   positions        working-context positions an expand costs or a collapse frees
--   distance_to_cursor  tokens from the node's end to the cursor
-- labels is at the collected horizon; labels_at(h) at any shorter one. A horizon beyond the measured tokens, or
-- an effect that has too few of them, is an error, never a shorter mean. Where an action was measured by a
-- cheaper estimator and exactly (an audit), the exact row stands.
--   attention_mass   what the base model's attention pays the action's entries together, where it was kept: a
--                    mean over all that is read in the trajectory, so the same for each of its cursors
-- measured_at(h) has the drops as well; they are no labels (see controls).
create macro measured_at(h) as table
with spans as (
    select
        e.*,
        t.run_id, t.document_id, t.source, t.split, t.policy, t.block_size, t.protected_tail, t.first_cursor,
        t.model_hash, t.gist_hash, t.dtype,
        list_sum(a.attention_mass[e.first_entry + 1 : e.first_entry + e.num_entries]) as attention_mass,
        case
            when coalesce(h, t.horizon) between 1 and t.horizon then coalesce(h, t.horizon)
            else error(
                'horizon ' || h || ' is outside 1 to ' || t.horizon || ', the tokens measured in run '
                || t.run_id || ': ask for at most that, or leave the run out (where run_id <> ...)'
            )
        end as label_horizon,
        (e.node_index + 1) * (t.block_size ** e.node_level)::bigint as node_end,
        unnest(t.cursors) as cursor
    from effects as e
    join trajectories as t using (trajectory_id)
    left join stored_attention as a using (trajectory_id)
    where e.status = 'ok'
    and (
        e.estimator = 'exact'
        or not exists (
            from effects as x
            where x.estimator = 'exact' and x.status = 'ok' and x.trajectory_id = e.trajectory_id
            and x.action = e.action and x.node_level = e.node_level and x.node_index = e.node_index
        )
    )
),

measured as (
    select
        *,
        case
            when cursor - first_token + label_horizon <= list_count(delta_nll)
                then delta_nll[cursor - first_token + 1 : cursor - first_token + label_horizon]
            else error('an effect of trajectory ' || trajectory_id || ' lacks tokens (mctrace verify)')
        end as horizon_delta_nll
    from spans
    where node_end <= cursor - case action when 'collapse' then protected_tail else 0 end
)

select
    run_id,
    trajectory_id,
    trajectory_id || ':' || cursor as snapshot_id,
    document_id,
    source,
    split,
    policy,
    cursor,
    cursor - first_cursor as cursor_offset,
    action,
    node_level,
    node_index,
    entry_level,
    (block_size ** node_level)::bigint as span_width,
    cursor - node_end as distance_to_cursor,
    label_horizon as horizon,
    list_avg(horizon_delta_nll) as delta_nll,
    list_stddev_samp(horizon_delta_nll) / sqrt(label_horizon) as stderr,
    case action when 'expand' then -1 else 1 end * list_avg(horizon_delta_nll) as value_of_detail,
    block_size - 1 as positions,
    inclusion_probability,
    estimator,
    estimator_window,
    attention_mass,
    model_hash,
    gist_hash,
    dtype
from measured;

create macro labels_at(h) as table from measured_at(h) where action <> 'drop';

create view labels as from labels_at(null);
