-- value_by_metadata: one row per metadata column, value of it, action and entry_level: the mean value of detail of the
-- documents that have that value, nats per token, at the collected horizon, weighted by 1 / inclusion_probability (all
-- legal actions). Only values that at least two documents have, of each column the `most_values` most frequent ones (a
-- variable; 12). Empty where the corpus kept no columns (corpus.metadata_columns).
--   value         text, number or true/false of the column; objects and lists do not count
--   mean_stderr   standard error of the mean with documents as clusters
--   mean_abs      mean |value_of_detail|: what there is to gain or lose
-- asks: what is detail worth by language, license or whatever the corpus says of its documents?
with said as (
    select d.document_id, e.key as metadata_column, e.atom ->> '$' as value
    from documents as d, json_each(d.metadata) as e
    where e.atom is not null
),

shown as (
    select metadata_column, value, count(*) as num_documents
    from said
    semi join labels using (document_id)
    group by metadata_column, value
    having num_documents > 1
    qualify row_number() over (partition by metadata_column order by num_documents desc, value)
        <= coalesce(getvariable('most_values'), 12)
),

weighted as (
    select s.metadata_column, s.value, action, entry_level, document_id, value_of_detail,
        1 / inclusion_probability as weight
    from labels
    join said as s using (document_id)
    semi join shown using (metadata_column, value)
),

means as (
    select
        metadata_column,
        value,
        action,
        entry_level,
        count(*) as num_labels,
        sum(weight) as total,
        sum(weight * value_of_detail) / total as mean,
        sum(weight * abs(value_of_detail)) / total as mean_abs
    from weighted
    group by all
),

by_document as (
    select metadata_column, value, action, entry_level, document_id,
        sum(weight * (value_of_detail - mean)) as residual
    from weighted
    join means using (metadata_column, value, action, entry_level)
    group by all
)

select
    metadata_column,
    value,
    action,
    entry_level,
    any_value(num_labels) as num_labels,
    count(*) as num_documents,
    any_value(mean) as mean,
    case when count(*) > 1 then sqrt(count(*) / (count(*) - 1) * sum(residual ** 2)) / any_value(total) end
        as mean_stderr,
    any_value(mean_abs) as mean_abs
from by_document
join means using (metadata_column, value, action, entry_level)
group by metadata_column, value, action, entry_level
order by metadata_column, action = 'collapse', action, entry_level, mean desc, value
