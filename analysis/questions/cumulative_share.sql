-- cumulative_share: one row per action and entry_level, both null for all, and percent of the actions, those of the
-- largest |value_of_detail| first: how much of the total of |value_of_detail| they hold, at the collected horizon.
-- Weighted by 1 / inclusion_probability (all legal actions). Percents in which no label ends are left out.
--   share_of_actions  what these labels are of all legal actions, at most percent
--   share_of_value    what they hold of the total of |value_of_detail|
--   num_labels, num_documents  of the whole action and entry_level
-- asks: how much of all value do the largest labels hold?
with sized as (
    select action, entry_level, document_id, abs(value_of_detail) as size, 1 / inclusion_probability as weight
    from labels
    where value_of_detail is not null
),

grouped as (
    from sized
    union all by name
    select * replace (null as action, null as entry_level)
    from sized
),

running as (
    select
        action,
        entry_level,
        sum(weight) over so_far / sum(weight) over whole as share_of_actions,
        sum(weight * size) over so_far / nullif(sum(weight * size) over whole, 0) as share_of_value
    from grouped
    window
        whole as (partition by action, entry_level),
        so_far as (
            partition by action, entry_level
            order by size desc, hash(document_id, weight)
            rows unbounded preceding
        )
),

counted as (
    select action, entry_level, count(*) as num_labels, count(distinct document_id) as num_documents
    from grouped
    group by action, entry_level
)

select
    r.action,
    r.entry_level,
    -- Rounding in the running sum must not push a label to the next percent.
    ceil(100 * r.share_of_actions - 1e-9)::bigint as percent,
    max(r.share_of_actions) as share_of_actions,
    max(r.share_of_value) as share_of_value,
    any_value(c.num_labels) as num_labels,
    any_value(c.num_documents) as num_documents
from running as r
join counted as c
    on r.action is not distinct from c.action and r.entry_level is not distinct from c.entry_level
where r.share_of_value is not null
group by r.action, r.entry_level, percent
order by r.action = 'collapse' nulls first, r.action, r.entry_level, percent
