-- preference_pairs: one row per ordered pair of variants of one group and cursor, the better (lower loss) first.
-- strength is the absolute difference of their adv_delta, nats per token, before any squashing.
-- public: preference_pairs
create view preference_pairs as
with judged as materialized (
    select variant_group_id, snapshot_id, document_id, split, cursor, adv_delta
    from variants
)

select
    better.variant_group_id,
    better.document_id,
    better.split,
    better.cursor,
    better.snapshot_id as better_snapshot_id,
    worse.snapshot_id as worse_snapshot_id,
    better.adv_delta as better_adv_delta,
    worse.adv_delta as worse_adv_delta,
    worse.adv_delta - better.adv_delta as strength
from judged as better
join judged as worse using (variant_group_id)
where better.adv_delta < worse.adv_delta;
