-- scorer_agreement: does a scorer put actions in the order of their measured value of detail? One row per scorer,
-- scope and document: Spearman's correlation of score and value within a ranking, mean over the document's
-- rankings. Reads the table `scores` (scorer, snapshot_id, action, node_level, node_index, score), which
-- `mctrace report` makes of checkpoints; where it has rows, only its snapshots count, so that all are judged on
-- the same labels. Two scorers that learn nothing stand beside the checkpoints:
--   recency         minus the distance to the cursor
--   attention mass  what the base model's attention pays the action's entries, where that was kept
-- The scope is what is ranked together, as in rank_stability: kind (the actions of one snapshot that share action
-- and entry_level) or snapshot (all of them). Rankings of fewer than 4 labels, or of equal values or scores, are
-- left out. Ties take the mean of their ranks. No weights: a sampled action counts once.
with asked as (
    from labels
    where snapshot_id in (select snapshot_id from scores) or not exists (from scores)
),

paired as (
    select 'recency' as scorer, a.*, -a.distance_to_cursor::double as score
    from asked as a
    union all by name
    select 'attention mass' as scorer, a.*, a.attention_mass::double as score
    from asked as a
    union all by name
    select s.scorer, a.*, s.score
    from asked as a
    join scores as s using (snapshot_id, action, node_level, node_index)
),

scoped as (
    select
        scorer,
        document_id,
        value_of_detail as value,
        score,
        unnest([
            {'scope': 'kind', 'ranking': concat_ws(' ', snapshot_id, action, entry_level)},
            {'scope': 'snapshot', 'ranking': snapshot_id}
        ], recursive := true)
    from paired
    where score is not null
),

ranked as (
    select
        scorer,
        scope,
        ranking,
        document_id,
        rank() over (partition by scorer, scope, ranking order by value)
        + (count(*) over (partition by scorer, scope, ranking, value) - 1) / 2 as value_rank,
        rank() over (partition by scorer, scope, ranking order by score)
        + (count(*) over (partition by scorer, scope, ranking, score) - 1) / 2 as score_rank
    from scoped
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
