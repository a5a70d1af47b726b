-- shadow_prices_over_time: one row per stretch of cursor positions, 20 of equal width from the first cursor to the
-- last: the price of one edit along a document, which is the shadow price times the positions that a block's edit takes, nats
-- per token, comparable with a value of detail. A snapshot counts once.
--   mean_num_entries   mean length of the working contexts there, in positions
--   num_without_price  snapshots for which no price balances the budget; they are left out of the rest
-- asks: how does the price of one edit change along a document?
with prices as (
    select
        s.cursor,
        s.num_positions as num_entries,
        p.shadow_price * (t.block_size - t.gist_positions) as edit_price
    from shadow_prices as p
    join snapshots as s using (snapshot_id)
    join trajectories as t using (trajectory_id)
),

ends as (
    select min(cursor) as first_cursor, greatest((max(cursor) - min(cursor) + 1) / 20, 1) as width
    from prices
),

binned as (
    select *, floor((cursor - first_cursor) / width)::int as bin
    from prices
    cross join ends
)

select
    ceil(first_cursor + bin * width)::bigint as cursor_from,
    ceil(first_cursor + (bin + 1) * width)::bigint as cursor_to,
    count(*) as num_snapshots,
    count(*) - count(edit_price) as num_without_price,
    avg(num_entries) as mean_num_entries,
    avg(edit_price) as mean,
    quantile_disc(edit_price, 0.25) as p25,
    quantile_disc(edit_price, 0.50) as p50,
    quantile_disc(edit_price, 0.75) as p75,
    avg((edit_price = 0)::int) as share_free
from binned
group by first_cursor, width, bin
order by bin
