-- audits: one row per trajectory, cursor and action or control that was measured twice, by a cheaper estimator and
-- exactly: both means over the collected horizon, nats per token, after minus before.
--   windowed_delta_nll, exact_delta_nll   the two readings of one label; labels keep the exact one
--   estimation_error                      windowed_delta_nll - exact_delta_nll
-- public: audits
create view audits as
with twice as (
    select
        w.trajectory_id, w.action, w.node_level, w.node_index, w.entry_level, w.first_token, w.estimator,
        w.estimator_window, w.inclusion_probability, w.delta_nll as windowed, e.delta_nll as exact
    from effects as w
    join effects as e using (trajectory_id, action, node_level, node_index)
    where w.estimator <> 'exact' and e.estimator = 'exact' and w.status = 'ok' and e.status = 'ok'
),

at_cursors as (
    select
        a.*, t.run_id, t.document_id, t.split, t.horizon, t.block_size, t.protected_tail,
        is_control(a.action, a.node_level, a.entry_level, t.absence) as is_control,
        unnest(t.cursors) as cursor
    from twice as a
    join trajectories as t using (trajectory_id)
),

measured as (
    select
        *,
        list_avg(windowed[cursor - first_token + 1 : cursor - first_token + horizon]) as windowed_delta_nll,
        list_avg(exact[cursor - first_token + 1 : cursor - first_token + horizon]) as exact_delta_nll
    from at_cursors
    where (node_index + 1) * (block_size ** node_level)::bigint
        <= cursor - case when keeps_off_tail(action, is_control) then protected_tail else 0 end
)

select
    run_id,
    trajectory_id,
    trajectory_id || ':' || cursor as snapshot_id,
    document_id,
    split,
    cursor,
    action,
    node_level,
    node_index,
    entry_level,
    horizon,
    estimator,
    estimator_window,
    inclusion_probability,
    windowed_delta_nll,
    exact_delta_nll,
    windowed_delta_nll - exact_delta_nll as estimation_error
from measured;
