-- snapshots: one row per trajectory cursor. num_entries is the working context's length there: the head's
-- entries plus the tokens since its map was current (cursor_offset). baseline_nll is nats per token over the
-- horizon after this cursor.
create view snapshots as
with cursors as (
    select t.* exclude (baseline_nll), t.baseline_nll as baseline_nll_by_token, unnest(t.cursors) as cursor
    from trajectories as t
),

head_lengths as (
    select trajectory_id, sum(num_entries)::bigint as head_entries
    from (
        select
            trajectory_id,
            level,
            case
                when level > 0 then count(*) / block_size ** (level - 1)
                -- the cursor may cut the last block, which is then level 0
                else count(*) * block_size - (start + len_levels * block_size - first_cursor)
            end as num_entries
        from (
            select
                trajectory_id, start, block_size, first_cursor, len(levels) as len_levels,
                unnest(levels)::int as level
            from trajectories
        )
        group by trajectory_id, level, start, block_size, len_levels, first_cursor
    )
    group by trajectory_id
)

select
    c.trajectory_id || ':' || c.cursor as snapshot_id,
    c.trajectory_id,
    c.run_id,
    c.document_id,
    c.source,
    c.split,
    c.policy,
    c.variant_group,
    c.cursor,
    c.cursor - c.first_cursor as cursor_offset,
    c.start,
    c.horizon,
    h.head_entries + (c.cursor - c.first_cursor) as num_entries,
    list_avg(
        c.baseline_nll_by_token[c.cursor - c.first_cursor + 1 : c.cursor - c.first_cursor + c.horizon]
    ) as baseline_nll
from cursors as c
join head_lengths as h using (trajectory_id);
