-- scorer_agreement: one row per scorer, scope and document: agreement of a scorer's order of actions with the order
-- by measured value of detail, as Spearman's correlation of score and value within a ranking, mean over the document's
-- rankings. Reads the table `scores` (scorer, snapshot_id, action, node_level, node_index, score), which
-- `mctrace report` makes of checkpoints; where it has rows, only its snapshots count, so that all are judged on
-- the same labels; where it has none, at most `most_trajectories` trajectories (a variable; 300), drawn by a hash of
-- their ids. num_labels and num_rankings count what was ranked. Two baselines stand beside the checkpoints:
--   recency         minus the distance to the cursor
--   attention mass  the base model's attention to the action's entries, where that was kept
-- The scope is what is ranked together, as in rank_stability: kind (the actions of one snapshot that share action
-- and entry_level) or snapshot (all of them). Rankings of fewer than 4 labels, or of equal values or scores, are
-- left out. Ties take the mean of their ranks. No weights: a sampled action counts once.
with asked as (
    from labels
    where snapshot_id in (select snapshot_id from scores)
    union all by name
    from drawn_labels(coalesce(getvariable('most_trajectories'), 300))
    where not exists (from scores)
),

found as (
    select
        snapshot_id, document_id, action, node_level, node_index, entry_level, value_of_detail as value,
        unnest([
            {'scorer': 'recency', 'score': -distance_to_cursor::double},
            {'scorer': 'attention mass', 'score': attention_mass::double},
        ], recursive := true)
    from asked
),

paired as (
    from found
    where score is not null
    union all by name
    select a.* replace (s.scorer as scorer, s.score as score)
    from found as a
    join scores as s using (snapshot_id, action, node_level, node_index)
    where a.scorer = 'recency'
),

scoped as (
    select
        scorer,
        document_id,
        value,
        score,
        unnest([
            {'scope': 'kind', 'ranking': hash(scorer, snapshot_id, action, entry_level)},
            {'scope': 'snapshot', 'ranking': hash(scorer, snapshot_id)}
        ], recursive := true)
    from paired
),

ranked as (
    select
        scorer,
        scope,
        ranking,
        document_id,
        (rank() over by_value + count(*) over by_value) / 2 as value_rank,
        (rank() over by_score + count(*) over by_score) / 2 as score_rank
    from scoped
    window
        by_value as (partition by ranking order by value),
        by_score as (partition by ranking order by score)
),

by_ranking as (
    select
        scorer,
        scope,
        any_value(document_id) as document_id,
        count(*) as num_labels,
        corr(value_rank, score_rank) as spearman
    from ranked
    group by scorer, scope, ranking
    having count(*) >= 4
)

select
    scorer,
    scope,
    document_id,
    count(*) as num_rankings,
    sum(num_labels)::bigint as num_labels,
    avg(spearman) as spearman
from by_ranking
where isfinite(spearman)
group by scorer, scope, document_id
order by scope, scorer, document_id
