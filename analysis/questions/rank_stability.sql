-- rank_stability: one row per scope: how far the order of actions by value of detail lasts from one stretch of
-- text to the next, as Spearman's correlation between the value over the first h tokens after the cursor and over the
-- h tokens after those, two disjoint neighbouring horizons. h is the variable `half_horizon` (tokens; unset:
-- half the shortest horizon collected). The scope says what is ranked together:
--   kind      the actions of one snapshot that share action and entry_level
--   snapshot  all actions of one snapshot, expands and collapses of all levels, as an allocator ranks them
--   all       all labels of the store: differences between levels and between documents count too
-- Of at most `most_trajectories` trajectories (a variable; 300), drawn by a hash of their ids. spearman is the mean
-- over a document's rankings, then over documents (scope all: the one ranking); stderr its standard error over
-- documents, null with one; num_trajectories counts those drawn, num_labels, num_rankings and num_documents what was
-- ranked. Rankings of fewer than 4 labels, or of equal values, are left out. Ties take the mean of their ranks. No
-- weights: a sampled action counts once.
-- asks: how long does an order of edits last along the text?
with parameters as (
    select coalesce(getvariable('half_horizon'), (select min(horizon) // 2 from labels)) as h
),

halves as (
    select *
    from label_halves((select h from parameters), coalesce(getvariable('most_trajectories'), 300))
),

grouped as (
    select
        document_id,
        first_value,
        second_value,
        unnest([
            {'scope': 'kind', 'ranking': hash(trajectory_id, cursor, action, entry_level)},
            {'scope': 'snapshot', 'ranking': hash(trajectory_id, cursor)},
            {'scope': 'all', 'ranking': 0::ubigint}
        ], recursive := true)
    from halves
),

ranked as (
    select
        scope,
        ranking,
        document_id,
        (rank() over by_first + count(*) over by_first) / 2 as first_rank,
        (rank() over by_second + count(*) over by_second) / 2 as second_rank
    from grouped
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
    (select count(distinct trajectory_id) from halves) as num_trajectories,
    sum(num_documents)::bigint as num_documents,
    sum(num_rankings)::bigint as num_rankings,
    sum(num_labels)::bigint as num_labels,
    avg(spearman) as spearman,
    case when count(*) > 1 then stddev_samp(spearman) / sqrt(count(*)) end as stderr
from by_document
group by scope
order by list_position(['kind', 'snapshot', 'all'], scope)
