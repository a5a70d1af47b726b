-- Changed copies of training snapshots, for recipes; each has the columns of labels and, where it needs it, start.
-- Validation and test are never changed. share is the part of the snapshots that is copied, drawn by seed. Copies
-- have a snapshot_id of their own.

-- labels_jittered(h, jitter, share, seed): at cursors up to `jitter` tokens away, read from the measured per-token
-- effects; of the actions that `labels` has. Nothing is measured again.
create macro labels_jittered(h, jitter, share, seed) as table
from (
    select * exclude (is_control)
    from measured_near(h, jitter, seed, null)
    where split = 'train' and not is_control and chance('jitter:' || snapshot_id, seed) < share
)
semi join (select distinct trajectory_id, action, node_level, node_index from labels)
    using (trajectory_id, action, node_level, node_index);

-- labels_smoothed(sigma, share, seed): the value of detail with Gaussian noise of `sigma` score units (times
-- utility_scale: nats per token). The noise is added before a target clips, so that utilities keep their legal sign.
create macro labels_smoothed(sigma, share, seed) as table
select
    * exclude (noise) replace (
        snapshot_id || '#smoothed' as snapshot_id,
        delta_nll + case when action in ('expand', 'insert') then -noise else noise end as delta_nll,
        value_of_detail + noise as value_of_detail
    )
from (
    select
        *,
        sigma * (select scale from utility_scale)
        * normal(concat_ws(':', snapshot_id, action, node_level, node_index), seed) as noise
    from labels
    where split = 'train' and chance('smoothed:' || snapshot_id, seed) < share
);

-- labels_partial(min_share, share, seed): snapshots that begin later: a window of the newest `min_share` to 1 of the
-- context's tokens, from the next place where a node begins. Actions on what is left out are left out. Values stay
-- those measured in the whole context.
create macro labels_partial(min_share, share, seed) as table
with windows as (
    select
        s.snapshot_id,
        -- The first block from where the window should begin at which a node begins.
        list_filter(
            list_transform(range(len(t.levels)), lambda i: {
                'start': t.start + i * t.block_size, 'level': t.levels[i + 1]
            }),
            lambda b: b.start >= s.cursor - (s.cursor - t.start)
            * (min_share + (1 - min_share) * chance('partial:' || s.snapshot_id, seed))
            and b.start % (t.block_size ** greatest(b.level, 1))::bigint = 0
        )[1].start as window_start
    from snapshot_cursors as s
    join trajectories as t using (trajectory_id)
    where s.start = t.start and t.split = 'train' and chance('window:' || s.snapshot_id, seed) < share
)

select
    l.* replace (l.snapshot_id || '@' || w.window_start as snapshot_id),
    w.window_start as start
from labels as l
join windows as w using (snapshot_id)
where l.cursor - l.distance_to_cursor - l.span_width >= w.window_start;
