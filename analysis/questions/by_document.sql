-- by_document: one row per document with labels, the highest share of strong labels first, at most 200: how much
-- was measured on it and how far its labels exceed the noise. Plain counts, no weights.
--   share_beyond          labels with |delta_nll| > 2 * greatest(stderr, hac_stderr)
--   mean_abs_value        mean |value_of_detail|, nats per token
--   widest_value          the largest |value_of_detail|
-- asks: how much was measured on each document, and how far does it exceed noise?
select
    document_id,
    any_value(source) as source,
    any_value(split) as split,
    string_agg(distinct policy, ', ' order by policy) as policies,
    count(distinct snapshot_id) as num_snapshots,
    count(*) as num_labels,
    avg((abs(delta_nll) > 2 * greatest(stderr, hac_stderr))::int) as share_beyond,
    avg(abs(value_of_detail)) as mean_abs_value,
    max(abs(value_of_detail)) as widest_value
from labels
group by document_id
order by share_beyond desc nulls last, document_id
limit 200
