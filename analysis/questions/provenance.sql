-- provenance: one row per collection run, oldest first: its settings and what it added. Plain counts,
-- no weights. num_effects counts actions measured ('ok'), num_failed those that failed;
-- num_labels counts effects once per cursor at which they are legal. Horizons are in tokens.
-- A run that committed trajectories without leaving a row of its own still gets one here, with nulls.
-- asks: what did each collection run measure, with which settings?
with trajectory_counts as (
    select
        run_id,
        count(*) as num_trajectories,
        count(distinct document_id) as num_documents,
        sum(len(cursors))::bigint as num_snapshots,
        min(horizon) as shortest_horizon,
        max(horizon) as longest_horizon,
        string_agg(distinct policy, ', ' order by policy) as policies
    from trajectories
    group by run_id
),

effect_counts as (
    select
        t.run_id,
        count(*) filter (where e.status = 'ok') as num_effects,
        count(*) filter (where e.status <> 'ok') as num_failed
    from effects as e
    join trajectories as t using (trajectory_id)
    group by t.run_id
),

label_counts as (
    select run_id, count(*) as num_labels
    from labels
    group by run_id
)

select
    run_id,
    r.started_at,
    r.ended_at,
    r.outcome,
    r.model_name,
    r.model_revision,
    r.model_hash,
    r.tokenizer_hash,
    r.gist_source,
    r.gist_hash,
    r.dtype,
    r.estimator,
    r.config,
    r.software,
    t.policies,
    t.shortest_horizon,
    t.longest_horizon,
    coalesce(t.num_documents, 0) as num_documents,
    coalesce(t.num_trajectories, 0) as num_trajectories,
    coalesce(t.num_snapshots, 0) as num_snapshots,
    coalesce(e.num_effects, 0) as num_effects,
    coalesce(e.num_failed, 0) as num_failed,
    coalesce(l.num_labels, 0) as num_labels
from runs as r
full join trajectory_counts as t using (run_id)
left join effect_counts as e using (run_id)
left join label_counts as l using (run_id)
order by r.started_at nulls last, run_id
