-- log: one row per run, oldest first, with what it added to the store.
with counted as (
    select
        run_id,
        count(*) as num_trajectories,
        count(distinct document_id) as num_documents,
        sum(len(cursors))::bigint as num_snapshots,
        sum(seconds) as worker_seconds
    from trajectories
    group by run_id
),

effect_counts as (
    select t.run_id, count(*) as num_effects
    from stored_effects as e
    join stored_trajectories as t using (trajectory_id)
    group by t.run_id
)

select
    r.*,
    coalesce(c.num_documents, 0) as num_documents,
    coalesce(c.num_trajectories, 0) as num_trajectories,
    coalesce(c.num_snapshots, 0) as num_snapshots,
    coalesce(e.num_effects, 0) as num_effects,
    e.num_effects / c.worker_seconds as effects_per_second
from runs as r
left join counted as c using (run_id)
left join effect_counts as e using (run_id)
order by started_at
