-- priced_standardised: the target priced with the same spread for every action and entry level. A row per label.
--   utility = u * (spread of u over all labels) / (spread over those of its action and entry_level)
-- where a spread is the root mean square on the training split, so that no kind of action drowns the others in a loss.
-- Nothing is shifted: signs and zeros stay as they were. Between kinds, a unit is no longer a nat.
select
    t.* replace (t.utility * coalesce(s.whole / nullif(s.spread, 0), 1) as utility)
from priced_target as t
left join (
    select
        action,
        entry_level,
        sqrt(avg(utility ** 2)) as spread,
        sqrt(sum(sum(utility ** 2)) over () / sum(count(utility)) over ()) as whole
    from priced_target
    where split = 'train'
    group by action, entry_level
) as s using (action, entry_level)
