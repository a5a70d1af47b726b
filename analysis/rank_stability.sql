-- rank_stability: does the order of actions by value of detail last from one stretch of text to the next? One
-- row per scope: Spearman's correlation between the value over the first h tokens after the cursor and over the
-- h tokens after those, two disjoint neighbouring horizons. h is the variable `half_horizon` (tokens; unset:
-- half the shortest horizon collected). The scope says what is ranked together:
--   kind      the actions of one snapshot that share action and entry_level
--   snapshot  all actions of one snapshot, expands and collapses of all levels, as an allocator ranks them
--   all       all labels of the store: differences between levels and between documents count too
-- spearman is the mean over a document's rankings, then over documents (scope all: the one ranking); stderr its
-- standard error over documents, null with one. Rankings of fewer than 4 labels, or of equal values, are left
-- out. The second value is 2 * (mean over 2h) - (mean over h). Ties take the mean of their ranks. No weights: a
-- sampled action counts once.
with parameters as (
    select coalesce(getvariable('half_horizon'), (select min(horizon) // 2 from labels)) as h
),

halves as (
    select
        document_id,
        near.value_of_detail as first_value,
        2 * whole.value_of_detail - near.value_of_detail as second_value,
        unnest([
            {'scope': 'kind', 'ranking': hash(snapshot_id, action, near.entry_level)},
            {'scope': 'snapshot', 'ranking': hash(snapshot_id)},
            {'scope': 'all', 'ranking': 0::ubigint}
        ], recursive := true)
    from labels_at((select h from parameters)) as near
    join labels_at((select 2 * h from parameters)) as whole
        using (document_id, snapshot_id, action, node_level, node_index, estimator)
),

ranked as (
    select
        scope,
        ranking,
        document_id,
        (rank() over by_first + count(*) over by_first) / 2 as first_rank,
        (rank() over by_second + count(*) over by_second) / 2 as second_rank
    from halves
    window
        by_first as (partition by scope, ranking order by first_value),
        by_second as (partition by scope, ranking order by second_value)
),

by_ranking as (
    select
        scope,
        any_value(document_id) as document_id,
        count(distinct document_id) as num_documents,
        count(*) as num_labels,
        corr(first_rank, second_rank) as spearman
    from ranked
    group by scope, ranking
    having count(*) >= 4
),

by_document as (
    select
        scope,
        max(num_documents) as num_documents,
        count(*) as num_rankings,
        sum(num_labels) as num_labels,
        avg(spearman) as spearman
    from by_ranking
    where isfinite(spearman)
    group by scope, document_id
)

select
    (select h from parameters) as half_horizon,
    scope,
    sum(num_documents)::bigint as num_documents,
    sum(num_rankings)::bigint as num_rankings,
    sum(num_labels)::bigint as num_labels,
    avg(spearman) as spearman,
    case when count(*) > 1 then stddev_samp(spearman) / sqrt(count(*)) end as stderr
from by_document
group by scope
order by list_position(['kind', 'snapshot', 'all'], scope)
