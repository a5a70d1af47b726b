-- value_by_source: one row per document source, those with the largest spread of values first: the value of detail
-- of its labels, nats per token, at the collected horizon. Mean and spread are weighted by
-- 1 / inclusion_probability (all legal actions); the counts and share_beyond (labels more than two standard errors
-- from zero) are not. Labels of one document are correlated: a source is one draw, not num_labels of them.
-- asks: which sources have the most spread of values?
with moments as (
    select
        source,
        any_value(split) as split,
        count(*) as num_labels,
        count(distinct snapshot_id) as num_snapshots,
        sum(value_of_detail / inclusion_probability) / sum(1 / inclusion_probability) as mean,
        sum(value_of_detail ** 2 / inclusion_probability) / sum(1 / inclusion_probability) as mean_square,
        max(value_of_detail) as highest,
        avg((abs(delta_nll) > 2 * greatest(stderr, hac_stderr))::int) as share_beyond
    from labels
    group by source
)

select
    source,
    split,
    num_labels,
    num_snapshots,
    mean,
    sqrt(greatest(mean_square - mean ** 2, 0)) as spread,
    highest,
    share_beyond
from moments
order by spread desc, source
