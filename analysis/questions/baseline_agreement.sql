-- baseline_agreement: one row per baseline and scope: agreement of cheap scores with measured values, as Spearman's
-- correlation with the value of detail among the actions that are ranked together:
--   kind      the actions of one snapshot that share action and entry_level
--   snapshot  all actions of one snapshot
-- The baselines score an action by
--   recency         minus its distance to the cursor: near text is worth more
--   attention_mass  the base model's attention to its entries together; only where it was kept
-- Of at most `most_trajectories` trajectories (a variable; 300), drawn by a hash of their ids. spearman is the mean
-- over a document's rankings, then over documents; stderr its standard error over documents, null with one;
-- num_rankings and num_documents count what was ranked. Rankings of fewer than 4 labels, or of equal values, are left
-- out. No weights.
-- asks: do recency and attention rank edits as their measured values do?
with scored as (
    select
        document_id,
        value_of_detail,
        unnest([
            {'baseline': 'recency', 'score': -distance_to_cursor::double},
            {'baseline': 'attention_mass', 'score': attention_mass::double}
        ], recursive := true),
        hash(snapshot_id) as snapshot,
        hash(snapshot_id, action, entry_level) as kind
    from drawn_labels(coalesce(getvariable('most_trajectories'), 300))
),

grouped as (
    select 'kind' as scope, kind as ranking, * exclude (kind, snapshot)
    from scored
    where score is not null
    union all
    select 'snapshot' as scope, snapshot as ranking, * exclude (kind, snapshot)
    from scored
    where score is not null
),

ranked as (
    select
        baseline,
        scope,
        ranking,
        document_id,
        (rank() over by_score + count(*) over by_score) / 2 as score_rank,
        (rank() over by_value + count(*) over by_value) / 2 as value_rank
    from grouped
    window
        by_score as (partition by baseline, scope, ranking order by score),
        by_value as (partition by baseline, scope, ranking order by value_of_detail)
),

by_ranking as (
    select baseline, scope, any_value(document_id) as document_id, corr(score_rank, value_rank) as spearman
    from ranked
    group by baseline, scope, ranking
    having count(*) >= 4
),

by_document as (
    select baseline, scope, document_id, count(*) as num_rankings, avg(spearman) as spearman
    from by_ranking
    where isfinite(spearman)
    group by baseline, scope, document_id
)

select
    baseline,
    scope,
    count(*) as num_documents,
    sum(num_rankings)::bigint as num_rankings,
    avg(spearman) as spearman,
    case when count(*) > 1 then stddev_samp(spearman) / sqrt(count(*)) end as stderr
from by_document
group by baseline, scope
order by baseline desc, scope
