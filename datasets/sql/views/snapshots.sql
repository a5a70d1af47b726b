-- snapshots: one row per trajectory cursor. num_entries is the working context's length there: the head's
-- entries plus the tokens since its map was current (cursor_offset), context_length(). baseline_nll is nats per token over the
-- horizon after this cursor.
-- public: snapshots
create macro context_length(levels, block_size, start, first_cursor, cursor) as
    round(
        list_sum([
            blocks.value * case blocks.key when 0 then block_size else block_size ** (1 - blocks.key::int) end
            for blocks in map_entries(list_histogram(levels))
        ])
    )::bigint
    -- The first cursor may cut the last block, which is then level 0.
    - (start + len(levels) * block_size - first_cursor)
    + (cursor - first_cursor);

create view snapshots as
with heads as (
    select *, context_length(levels, block_size, start, first_cursor, first_cursor) as head_entries
    from trajectories
),

shown as (
    select
        c.snapshot_id,
        c.cursor,
        c.start,
        t.* exclude (start, levels),
        case
            when c.start = t.start then t.head_entries + c.cursor - t.first_cursor
            else context_length(
                t.levels[(c.start - t.start) // t.block_size + 1 :], t.block_size, c.start, t.first_cursor, c.cursor
            )
        end as num_entries
    from snapshot_cursors as c
    join heads as t using (trajectory_id)
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
    num_entries,
    ended_at as measured_at,
    logged_at,
    actions_taken,
    list_avg(
        baseline_nll[cursor - first_cursor + 1 : cursor - first_cursor + horizon]
    ) as baseline_nll
from shown;
