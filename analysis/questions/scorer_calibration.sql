-- scorer_calibration: one row per scorer and tenth of the labels that it scores, the lowest scores first: how its scores
-- compare with measured values of detail, nats per token, at the collected horizon. Reads the table `scores` (scorer,
-- snapshot_id, action, node_level, node_index, score), which `mctrace report` makes of checkpoints; empty without
-- them. No weights: a sampled action counts once.
--   mean_score    in the scorer's own units
--   mean_value, value_stderr  mean of the measured values, and its standard error with documents as clusters, since labels
--                 of one document are not independent; null with one document
with judged as (
    select s.scorer, l.document_id, s.score, l.value_of_detail as value,
        ntile(10) over (
            partition by s.scorer
            order by s.score, l.snapshot_id, l.action, l.node_level, l.node_index
        ) as tenth
    from scores as s
    join labels as l using (snapshot_id, action, node_level, node_index)
    where s.score is not null
),

centred as (
    select *, avg(value) over (partition by scorer, tenth) as mean_value
    from judged
),

by_document as (
    select scorer, tenth, document_id, any_value(mean_value) as mean_value,
        count(*) as num_labels, sum(score) as sum_score, sum(value - mean_value) as residual
    from centred
    group by scorer, tenth, document_id
)

select
    scorer,
    tenth,
    sum(num_labels)::bigint as num_labels,
    count(*) as num_documents,
    sum(sum_score) / sum(num_labels) as mean_score,
    any_value(mean_value) as mean_value,
    case
        when count(*) > 1
            then sqrt(count(*) / (count(*) - 1) * sum(residual ** 2)) / sum(num_labels)
    end as value_stderr
from by_document
group by scorer, tenth
order by scorer, tenth
