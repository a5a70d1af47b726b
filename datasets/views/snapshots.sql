-- snapshots: one row per trajectory cursor. num_entries is the working context's length there: the head's
-- entries plus the tokens since its map was current (cursor_offset). baseline_nll is nats per token over the
-- horizon after this cursor.
create view snapshots as
with shown as (
    select
        c.snapshot_id,
        c.cursor,
        c.start,
        t.* exclude (start, levels),
        t.levels[(c.start - t.start) // t.block_size + 1 :] as levels
    from snapshot_cursors as c
    join trajectories as t using (trajectory_id)
)

select
    snapshot_id,
    trajectory_id,
    run_id,
    document_id,
    source,
    split,
    policy,
    variant_group,
    cursor,
    cursor - first_cursor as cursor_offset,
    start,
    horizon,
    round(
        list_sum(
            list_transform(levels, lambda l: case l when 0 then block_size else block_size ** (1 - l::int) end)
        )
    )::bigint
    -- The first cursor may cut the last block, which is then level 0.
    - (start + len(levels) * block_size - first_cursor)
    + (cursor - first_cursor) as num_entries,
    list_avg(
        baseline_nll[cursor - first_cursor + 1 : cursor - first_cursor + horizon]
    ) as baseline_nll
from shown;
