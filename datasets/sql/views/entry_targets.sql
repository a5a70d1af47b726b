-- entry_targets(target): one row per snapshot with labels and position of its working context: what a loss over
-- entries is given, nats per token. target is 'value', 'priced', 'literal' or another view NAME_target, without the _target.
--   expand_utility    of the action that expands this entry; null where none was measured
--   collapse_utility  of the action that collapses it and its K - 1 siblings, copied to each of them
--   action_mask       whether either was measured
--   utility_sum       max(0, expand) + min(0, collapse): the single target under `priced`
--   utility_largest   the one of larger size: the single target under `literal`
--   utility_mean      the mean of those that were measured, whatever their signs: the single target under `value`
--   regression_weight 1 where an expand was measured, 1 / K where only a collapse was, else 0
-- public: entry_targets
create macro entry_targets(target) as table
with actions as (
    select snapshot_id, action, node_level, node_index, utility
    from query_table(target || '_target')
    where utility is not null
),

laid as (
    select
        e.*,
        x.utility as expand_utility,
        c.utility as collapse_utility,
        greatest(0, coalesce(x.utility, 0)) as gain,
        least(0, coalesce(c.utility, 0)) as refund
    from entries as e
    semi join actions using (snapshot_id)
    left join actions as x
        on x.action = 'expand' and x.snapshot_id = e.snapshot_id and x.node_level = e.entry_level
        and x.node_index = e.node_index
    left join actions as c
        on c.action = 'collapse' and c.snapshot_id = e.snapshot_id and c.node_level = e.entry_level + 1
        and c.node_index = e.node_index // e.block_size
)

select
    * exclude (gain, refund, block_size),
    expand_utility is not null or collapse_utility is not null as action_mask,
    gain + refund as utility_sum,
    case when gain >= -refund then gain else refund end as utility_largest,
    coalesce(list_avg([expand_utility, collapse_utility]), 0) as utility_mean,
    case
        when expand_utility is not null then 1
        when collapse_utility is not null then 1 / block_size
        else 0
    end as regression_weight
from laid;
