-- additivity_gap: one row per number of actions measured at once: how far a joint edit is from the sum of its single
-- ones, nats per token at the collected horizon. Sets count once per cursor, unweighted.
--   mean_abs_joint   mean size of the joint effects: the gap is small or large beside it
--   mean_gap, mean_abs_gap  delta_nll - sum_of_singles; positive: together they hurt more or help less
--   sign_agreement   sets whose joint effect and sum have the same sign
--   pearson          correlation of joint effect and sum; null with fewer than two
--   slope            regression of the joint effect on the sum: 1 where effects add up
-- asks: how far are joint edits from the sum of their single ones?
select
    num_actions,
    count(*) as num_sets,
    count(distinct document_id) as num_documents,
    avg(abs(delta_nll)) as mean_abs_joint,
    avg(additivity_gap) as mean_gap,
    avg(abs(additivity_gap)) as mean_abs_gap,
    avg((sign(delta_nll) = sign(sum_of_singles))::int) as sign_agreement,
    case when isfinite(corr(delta_nll, sum_of_singles)) then corr(delta_nll, sum_of_singles) end as pearson,
    case
        when var_pop(sum_of_singles) > 0 then covar_pop(delta_nll, sum_of_singles) / var_pop(sum_of_singles)
    end as slope
from joint_edits
group by num_actions
order by num_actions
