-- trajectories: one row per document, LOD map and set of cursors. levels holds one level per block of K tokens
-- from start on; baseline_nll is nats per token from the first cursor to the last cursor + horizon, null where
-- baseline_status is not 'ok'. semantics says what an edit does to what was read before it, gist_positions how many
-- positions a gist takes.
-- public: trajectories
create view trajectories as
select
    t.* exclude (baseline_status, semantics, gist_positions),
    coalesce(t.baseline_status, 'ok') as baseline_status,
    coalesce(t.semantics, 're_encoded') as semantics,
    coalesce(t.gist_positions, 1) as gist_positions,
    t.cursors[1] as first_cursor,
    t.cursors[-1] as last_cursor,
    d.source,
    d.split
from stored_trajectories as t
left join documents as d using (document_id);
