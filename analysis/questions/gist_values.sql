-- gist_values: one row per GistNet, action and entry_level, over the questions measured with every GistNet of the
-- store: the same document, LOD map, cursor, action, node, base model, dtype and tree. Values of detail in
-- nats per token at the collected horizon, each label once, unweighted.
--   gist_name        the source it was collected under; the newest where there are several
--   baseline_nll     mean loss of the unedited contexts behind these labels, nats per token: lower is better gists
--   share_beyond     labels more than two standard errors from zero
-- asks: which of several GistNets damages less on the same questions?
with maps as materialized (
    select
        trajectory_id,
        hash(document_id, start, levels, model_hash, dtype, block_size) as map,
        hash(document_id) as document
    from trajectories
),

asked as (
    select
        l.gist_hash,
        hash(m.map, l.cursor, l.horizon, l.action, l.node_level, l.node_index) as question,
        l.action,
        l.entry_level,
        m.document,
        l.value_of_detail,
        (abs(l.delta_nll) > 2 * l.stderr)::int as is_beyond,
        s.baseline_nll
    from labels as l
    join maps as m using (trajectory_id)
    join snapshots as s using (snapshot_id)
),

once as (
    select any_value(columns(* exclude (gist_hash, question))), gist_hash, question
    from asked
    group by gist_hash, question
),

shared as (
    select question
    from once
    group by question
    having count(*) = (select count(distinct gist_hash) from once)
),

names as (
    select gist_hash, max_by(gist_source, started_at) as gist_name
    from runs
    group by gist_hash
)

select
    n.gist_name,
    o.gist_hash,
    o.action,
    o.entry_level,
    count(*) as num_labels,
    count(distinct o.document) as num_documents,
    avg(o.baseline_nll) as baseline_nll,
    avg(o.value_of_detail) as mean,
    quantile_disc(o.value_of_detail, 0.05) as p05,
    quantile_disc(o.value_of_detail, 0.25) as p25,
    quantile_disc(o.value_of_detail, 0.50) as p50,
    quantile_disc(o.value_of_detail, 0.75) as p75,
    quantile_disc(o.value_of_detail, 0.95) as p95,
    avg(o.is_beyond) as share_beyond
from once as o
semi join shared using (question)
join names as n using (gist_hash)
group by n.gist_name, o.gist_hash, o.action, o.entry_level
order by o.action = 'collapse', o.action, o.entry_level, baseline_nll desc, o.gist_hash
