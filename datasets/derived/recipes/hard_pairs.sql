-- hard_pairs: of every preference group and cursor the k pairs whose losses are closest to each other, so hardest to
-- tell apart, but further apart than min_strength nats per token. Variables: k (4), min_strength (0).
select *
from preference_pairs
where strength > coalesce(getvariable('min_strength'), 0)
qualify
    row_number() over (partition by variant_group_id order by strength, better_snapshot_id, worse_snapshot_id)
    <= coalesce(getvariable('k'), 4)
order by variant_group_id, strength, better_snapshot_id, worse_snapshot_id
