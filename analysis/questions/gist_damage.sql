-- gist_damage: one row per entry_level of the text and tenth of the labels whose span was also measured left out
-- (controls): the cost of the gist against the worth of the span. The first tenth holds the spans worth least. Nats
-- per token at the collected horizon; labels count once each, unweighted.
--   information_value  NLL(nothing there) - NLL(text there): the worth of the span's text
--   gist_value         NLL(nothing there) - NLL(gist there): negative where the gist is worse than nothing
--   damage             NLL(gist there) - NLL(text there), the value of detail: information_value - gist_value
--   share_worse_than_nothing  labels whose gist does worse than leaving the span out
--   kept_share         mean gist_value / mean information_value: 1 for a gist that keeps all; null at or below zero
-- asks: what does a gist cost against what its text is worth?
with tenths as (
    select
        node_level - 1 as text_level,
        information_value,
        gist_value,
        value_of_detail,
        ntile(10) over (
            partition by node_level
            order by information_value, snapshot_id, action, node_index
        ) as tenth
    from controls
    where action in ('expand', 'collapse')
)

select
    text_level,
    tenth,
    count(*) as num_labels,
    min(information_value) as information_from,
    max(information_value) as information_to,
    avg(information_value) as information_value,
    avg(gist_value) as gist_value,
    avg(value_of_detail) as damage,
    avg((gist_value < 0)::int) as share_worse_than_nothing,
    case when avg(information_value) > 0 then avg(gist_value) / avg(information_value) end as kept_share
from tenths
group by text_level, tenth
order by text_level, tenth
