-- entry_targets(target): one row per snapshot with labels and scored node (a position of its working context, or an
-- absent block, whose entry is null): what a loss over entries is given, nats per token. target is 'value', 'priced', 'literal' or another view NAME_target, without the _target.
--   expand_utility    of the action that expands this entry or inserts this block; null where none was measured
--   collapse_utility  of the action that collapses it and its K - 1 siblings, copied to each of them
--   drop_utility      of the action that drops it, copied to each of K tokens
--   action_mask       whether any of them was measured
--   utility_sum       max(0, expand) + min(0, collapse, drop): the single target under `priced`
--   utility_largest   the one of larger size: the single target under `literal`
--   utility_mean      the mean of those that were measured, whatever their signs: the single target under `value`
--   regression_weight 1 where an expand, an insert or a gist's drop was measured, else 1 / K where a collapse or a drop
--                     of tokens was, else 0
-- public: entry_targets
create macro entry_targets(target) as table
with actions as (
    select snapshot_id, action, node_level, node_index, utility
    from query_table(target || '_target')
    where utility is not null
),

-- An absent block is inserted by its node of level 1.
nodes as (
    select *, case entry_level when 255 then 1 else entry_level end as own_level
    from scored_nodes
    semi join actions using (snapshot_id)
),

laid as (
    select
        e.*,
        x.utility as expand_utility,
        c.utility as collapse_utility,
        d.utility as drop_utility,
        greatest(0, coalesce(x.utility, 0)) as gain,
        least(0, coalesce(c.utility, 0), coalesce(d.utility, 0)) as refund
    from nodes as e
    left join actions as x
        on x.action in ('expand', 'insert') and x.snapshot_id = e.snapshot_id and x.node_level = e.own_level
        and x.node_index = e.node_index
    left join actions as d
        on d.action = 'drop' and d.snapshot_id = e.snapshot_id and d.node_level = greatest(e.entry_level, 1)
        and d.node_index = case e.entry_level when 0 then e.node_index // e.block_size else e.node_index end
    left join actions as c
        on c.action = 'collapse' and c.snapshot_id = e.snapshot_id and c.node_level = e.entry_level + 1
        and c.node_index = e.node_index // e.block_size
)

select
    * exclude (gain, refund, block_size, own_level),
    coalesce(expand_utility, collapse_utility, drop_utility) is not null as action_mask,
    gain + refund as utility_sum,
    case when gain >= -refund then gain else refund end as utility_largest,
    coalesce(list_avg([expand_utility, collapse_utility, drop_utility]), 0) as utility_mean,
    case
        when expand_utility is not null or (drop_utility is not null and entry_level > 0) then 1
        when coalesce(collapse_utility, drop_utility) is not null then 1 / block_size
        else 0
    end as regression_weight
from laid;
