-- estimator_audit: one row per estimator, its window, action and entry_level: the cheaper estimator against exact labels,
-- on the actions measured both ways. Nats per token at the collected horizon; a label counts once per cursor,
-- unweighted (audited actions are drawn evenly).
--   spearman        rank correlation of the two readings over all of them; null where one does not vary
--   sign_agreement  share with the same sign
--   mae, p95_error  mean and 95th percentile of |estimated - exact|
--   bias            mean of estimated - exact
--   median_abs_exact  the size of the labels that the errors are errors of
-- asks: how good is the cheaper estimator where both were measured?
with ranked as (
    select
        *,
        (rank() over by_windowed + count(*) over by_windowed) / 2 as windowed_rank,
        (rank() over by_exact + count(*) over by_exact) / 2 as exact_rank
    from audits
    window
        by_windowed as (partition by estimator, estimator_window, action, entry_level order by windowed_delta_nll),
        by_exact as (partition by estimator, estimator_window, action, entry_level order by exact_delta_nll)
)

select
    estimator,
    estimator_window,
    action,
    entry_level,
    count(*) as num_audited,
    count(distinct document_id) as num_documents,
    case when isfinite(corr(windowed_rank, exact_rank)) then corr(windowed_rank, exact_rank) end as spearman,
    avg((sign(windowed_delta_nll) = sign(exact_delta_nll))::int) as sign_agreement,
    avg(abs(estimation_error)) as mae,
    quantile_disc(abs(estimation_error), 0.95) as p95_error,
    avg(estimation_error) as bias,
    median(abs(exact_delta_nll)) as median_abs_exact
from ranked
group by estimator, estimator_window, action, entry_level
order by estimator, estimator_window, action = 'collapse', action, entry_level
