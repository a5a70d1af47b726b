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
)

select
    r.*,
    coalesce(c.num_documents, 0) as num_documents,
    coalesce(c.num_trajectories, 0) as num_trajectories,
    coalesce(c.num_snapshots, 0) as num_snapshots,
    c.worker_seconds
from runs as r
left join counted as c using (run_id)
order by started_at
