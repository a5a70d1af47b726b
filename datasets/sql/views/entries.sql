-- entries: one row per snapshot and position of its working context, oldest first. Each gets a score.
--   entry               the position, from 0
--   entry_level         0 a token, 1 a gist of K tokens, 2 a gist of K² tokens
--   node_index          which node of its level; for a token its offset in the document
--   first_token, span_width  the tokens [first_token, first_token + span_width) that it stands for
--   distance_to_cursor  tokens from its end to the cursor
-- With a condition on snapshot_id, only those snapshots are laid out.
-- scored_nodes has the absent blocks as well, since they are scored too: entry null, entry_level 255, node_index among
-- the blocks, span_width 0.
-- public: entries, scored_nodes
create view map_blocks as
with maps as (
    select
        c.snapshot_id, c.trajectory_id, c.cursor, c.start, t.block_size,
        -- After the first cursor the context grows by tokens.
        list_resize(
            t.levels[(c.start - t.start) // t.block_size + 1 :],
            (c.cursor - c.start + t.block_size - 1) // t.block_size,
            0
        ) as levels
    from snapshot_cursors as c
    join trajectories as t using (trajectory_id)
)

select
    * exclude (levels, start),
    unnest(levels)::int as entry_level,
    unnest(range(start, start + len(levels) * block_size, block_size)) as block_start
from maps;

-- A gist of level 2 or more covers several blocks and stands where the first of them begins. An absent block (255) has
-- no entry; no level is above 4.
create view entries as
with tokens as (
    select
        * exclude (block_start),
        (block_size ** least(entry_level, 4))::bigint as span_width,
        unnest(
            case
                when entry_level = 0 then range(block_start, least(block_start + block_size, cursor))
                else [block_start]
            end
        ) as first_token
    from map_blocks
    where
        entry_level = 0
        or (entry_level < 255 and block_start % (block_size ** least(entry_level, 4))::bigint = 0)
)

select
    snapshot_id,
    trajectory_id,
    cursor,
    row_number() over (partition by snapshot_id order by first_token) - 1 as entry,
    entry_level,
    first_token // span_width as node_index,
    first_token,
    span_width,
    cursor - first_token - span_width as distance_to_cursor,
    block_size
from tokens;

create view scored_nodes as
from entries
union all by name
select
    snapshot_id,
    trajectory_id,
    cursor,
    entry_level,
    block_start // block_size as node_index,
    block_start as first_token,
    0::bigint as span_width,
    cursor - block_start as distance_to_cursor,
    block_size
from map_blocks
where entry_level = 255;
