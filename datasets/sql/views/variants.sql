-- variants: one row per working-context variant and cursor of a preference group: a lod0 baseline and random
-- compressions of the same window. adv_delta is its loss minus the baseline's, nats per token.
-- public: variants
create view variants as
with losses as (
    select
        variant_group,
        trajectory_id || ':' || cursor as snapshot_id,
        document_id,
        split,
        cursor,
        policy,
        head_entries + cursor - first_cursor as num_entries,
        list_avg(baseline_nll[cursor - first_cursor + 1 : cursor - first_cursor + horizon]) as loss
    from (
        select
            *,
            context_length(levels, block_size, start, first_cursor, first_cursor) as head_entries,
            unnest(cursors) as cursor
        from trajectories
        where variant_group is not null
    )
)

select
    variant_group || ':' || cursor as variant_group_id,
    snapshot_id,
    document_id,
    split,
    cursor,
    policy = 'variant_lod0' as is_baseline,
    num_entries,
    loss,
    loss - min(loss) filter (where policy = 'variant_lod0') over same_context as adv_delta
from losses
window same_context as (partition by variant_group, cursor)
-- A group whose baseline was not measured compares with nothing.
qualify count(*) filter (where policy = 'variant_lod0') over same_context > 0;
