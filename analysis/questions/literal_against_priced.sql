-- literal_against_priced: one row per action: agreement of the two target definitions on the labels that both give a
-- utility. Labels count once each, unweighted.
--   share_zero_literal, share_zero_priced  labels that a target leaves at zero
--   share_only_literal, share_only_priced  labels that one target moves from zero and the other does not
--   spearman   rank correlation of the two utilities among a snapshot's labels of this action, mean over the snapshots
--              where both vary, of at most `most_trajectories` trajectories (a variable; 300), drawn by a hash of their
--              ids. Below zero for collapses: `literal` puts the costliest collapse lowest, `priced` the cheapest
-- asks: how far do the targets literal and priced agree?
with pairs as (
    select
        p.trajectory_id,
        hash(p.snapshot_id) as snapshot,
        p.action,
        p.utility as priced,
        case when p.action in ('expand', 'insert') then greatest(0, -p.delta_nll) else -greatest(0, p.delta_nll) end as literal
    from priced_target as p
    where p.utility is not null
),

drawn as (
    select distinct trajectory_id
    from pairs
    order by md5(trajectory_id)
    limit coalesce(getvariable('most_trajectories'), 300)
),

ranked as (
    select
        snapshot,
        action,
        (rank() over by_priced + count(*) over by_priced) / 2 as priced_rank,
        (rank() over by_literal + count(*) over by_literal) / 2 as literal_rank
    from pairs
    semi join drawn using (trajectory_id)
    window
        by_priced as (partition by snapshot, action order by priced),
        by_literal as (partition by snapshot, action order by literal)
),

correlations as (
    select snapshot, action, corr(priced_rank, literal_rank) as spearman
    from ranked
    group by snapshot, action
    having count(*) >= 4
),

agreement as (
    select action, avg(spearman) as spearman, count(*) as num_rankings
    from correlations
    where isfinite(spearman)
    group by action
)

select
    action,
    count(*) as num_labels,
    count(distinct p.snapshot) as num_snapshots,
    avg((literal = 0)::int) as share_zero_literal,
    avg((priced = 0)::int) as share_zero_priced,
    avg((literal <> 0 and priced = 0)::int) as share_only_literal,
    avg((literal = 0 and priced <> 0)::int) as share_only_priced,
    any_value(a.spearman) as spearman,
    coalesce(any_value(a.num_rankings), 0) as num_rankings
from pairs as p
left join agreement as a using (action)
group by action
order by action = 'collapse', action
