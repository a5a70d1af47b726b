-- signal: one row per action and entry_level, and one for all (both null): how many labels exceed their own noise,
-- at the horizon in the variable `horizon` (tokens; unset: as collected).
--   num_beyond         labels with |delta_nll| > 2 * greatest(stderr, hac_stderr)
--   share_of_labels    num_beyond / num_labels, each label counted once: what a loss is given
--   share_of_actions   the same with weights 1 / inclusion_probability: all legal actions, sampled or not
--   median_abs_delta_nll, median_stderr, median_hac_stderr  nats per token, over labels, unweighted
-- The standard error is the larger of the plain one and that which allows for correlated neighbours (hac_stderr);
-- median_stderr takes the horizon's tokens for independent, median_hac_stderr does not. Labels of pure normal noise
-- would exceed a right one in 4.6% of cases; half_differences.sql says what these standard errors let through. Labels
-- without a stderr (a horizon of one token, gradient estimates) are left out.
-- asks: how many labels exceed their own noise?
select
    horizon,
    action,
    entry_level,
    count(*) as num_labels,
    count(distinct document_id) as num_documents,
    count(*) filter (where abs(delta_nll) > 2 * greatest(stderr, hac_stderr)) as num_beyond,
    num_beyond / num_labels as share_of_labels,
    coalesce(sum(1 / inclusion_probability) filter (where abs(delta_nll) > 2 * greatest(stderr, hac_stderr)), 0)
    / sum(1 / inclusion_probability) as share_of_actions,
    median(abs(delta_nll)) as median_abs_delta_nll,
    median(stderr) as median_stderr,
    median(hac_stderr) as median_hac_stderr
from labels_at(getvariable('horizon'))
where stderr is not null
group by grouping sets ((horizon), (horizon, action, entry_level))
order by horizon, action is not null, action = 'collapse', action, entry_level
