-- preference_selection: one row per pair of variants to learn from.
-- Every variant is compared with the best of its group (a window and cursor); of all other pairs only the hard
-- negatives stay, the requested share with the largest difference of loss. Where a group has more pairs than the cap,
-- comparisons with the best come first, then larger differences. The caller's condition filters preference_pairs
-- before all of this.
with chosen as (
    select
        *,
        better_adv_delta = min(better_adv_delta) over (partition by variant_group_id) as with_the_best
    from preference_pairs
    where {where}
),

ranked as (
    select
        *,
        row_number() over kind as place,
        count(*) over (partition by variant_group_id, with_the_best) as num_of_kind
    from chosen
    window kind as (
        partition by variant_group_id, with_the_best
        order by strength desc, better_snapshot_id, worse_snapshot_id
    )
)

select variant_group_id, document_id, split, better_snapshot_id, worse_snapshot_id
from ranked
where with_the_best or place <= ceil(num_of_kind * {hard_negative_share})
qualify row_number() over (
    partition by variant_group_id
    order by with_the_best desc, strength desc, better_snapshot_id, worse_snapshot_id
) <= {max_pairs}
order by variant_group_id, worse_snapshot_id, better_snapshot_id
