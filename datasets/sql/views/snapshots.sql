-- snapshots: one row per trajectory cursor. num_entries are the working context's entries there: the head's and the
-- tokens since its map was current (cursor_offset); num_positions the positions that they take, which are more where a
-- gist takes several (trajectories.gist_positions). baseline_nll is nats per token over the horizon after this cursor.
-- public: snapshots
create macro context_length(levels, block_size, start, first_cursor, cursor, per_gist := 1) as
    round(
        list_sum([
            blocks.value
            * case blocks.key when 0 then block_size else per_gist * block_size ** (1 - blocks.key::int) end
            for blocks in map_entries(list_histogram(levels))
        ])
    )::bigint
    -- The first cursor may cut the last block, which is then level 0.
    - (start + len(levels) * block_size - first_cursor)
    + (cursor - first_cursor);

create view snapshots as
with heads as (
    select
        *,
        context_length(levels, block_size, start, first_cursor, first_cursor) as head_entries,
        context_length(levels, block_size, start, first_cursor, first_cursor, per_gist := gist_positions)
            as head_positions
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
        end as num_entries,
        case
            when c.start = t.start then t.head_positions + c.cursor - t.first_cursor
            else context_length(
                t.levels[(c.start - t.start) // t.block_size + 1 :], t.block_size, c.start, t.first_cursor, c.cursor,
                per_gist := t.gist_positions
            )
        end as num_positions
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
    num_positions,
    ended_at as measured_at,
    logged_at,
    actions_taken,
    list_avg(
        baseline_nll[cursor - first_cursor + 1 : cursor - first_cursor + horizon]
    ) as baseline_nll
from shown;
