-- variants: one row per working-context variant and cursor of a preference group: a lod0 baseline and random
-- compressions of the same window. adv_delta is its loss minus the baseline's, nats per token.
create view variants as
select
    s.variant_group || ':' || s.cursor as variant_group_id,
    s.snapshot_id,
    s.document_id,
    s.split,
    s.cursor,
    s.policy = 'variant_lod0' as is_baseline,
    s.num_entries,
    s.baseline_nll as loss,
    s.baseline_nll - b.baseline_nll as adv_delta
from snapshots as s
join snapshots as b
    on s.variant_group = b.variant_group and s.cursor = b.cursor and b.policy = 'variant_lod0';
