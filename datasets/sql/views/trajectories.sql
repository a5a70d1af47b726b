-- trajectories: one row per document, LOD map and set of cursors. levels holds one level per block of K tokens
-- from start on; baseline_nll is nats per token from the first cursor to the last cursor + horizon, null where
-- baseline_status is not 'ok'.
-- public: trajectories
create view trajectories as
select
    t.* exclude (baseline_status),
    coalesce(t.baseline_status, 'ok') as baseline_status,
    t.cursors[1] as first_cursor,
    t.cursors[-1] as last_cursor,
    d.source,
    d.split
from stored_trajectories as t
left join documents as d using (document_id);
