-- value_over_time: one row per cursor and node of the documents with the most cursors, held-out ones first, at most
-- `most_documents` of them (a variable; 2): what the node's detail was worth at each moment of reading, nats per token.
-- Only documents with labels at several cursors.
--   value        mean value_of_detail over the actions on the node at that cursor, of all LOD maps
--   stderr       the largest of their standard errors, null for estimates
--   first_token, end_token   the node's span in the document
-- Plain means, no weights.
-- asks: which parts of a document are worth their detail, and when?
with chosen as (
    select
        document_id,
        row_number() over (
            order by any_value(split) is not distinct from 'train', count(distinct cursor) desc, count(*) desc,
                document_id
        ) as rank
    from labels
    group by document_id
    having count(distinct cursor) > 1
    qualify rank <= coalesce(getvariable('most_documents'), 2)
)

select
    document_id,
    any_value(source) as source,
    any_value(split) as split,
    cursor,
    node_level,
    node_index,
    any_value(cursor - distance_to_cursor - span_width) as first_token,
    any_value(cursor - distance_to_cursor) as end_token,
    avg(value_of_detail) as value,
    max(greatest(stderr, hac_stderr)) as stderr,
    count(*) as num_labels,
    string_agg(distinct action, ', ' order by action) as actions
from labels
join chosen using (document_id)
group by rank, document_id, cursor, node_level, node_index
order by rank, cursor, node_level desc, node_index
