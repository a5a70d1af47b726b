-- utility_scale: nats per token that make one unit of score, a single row. The robust spread of the value of
-- detail on the training split: the distance between its 5th and 95th percentile in units of a normal
-- distribution's, so that heavy tails do not decide it. Over the labels a trainer sees, unweighted.
select (quantile_cont(value_of_detail, 0.95) - quantile_cont(value_of_detail, 0.05)) / (2 * 1.6449) as scale
from labels
where split = 'train'
