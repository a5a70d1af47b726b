-- difference_estimates: one row per run, action and node_level of trajectories whose exact measurements were chosen by
-- gradient estimates (action_sampling = screened): the mean label of all legal actions at the collected horizon, nats
-- per token. All actions count by their estimate, and the sample by what exact labels add to it:
--   mean            (sum of estimates + sum of (exact - estimate) / inclusion_probability) / num_labels
--   weighted_mean   the sample's exact labels alone: sum of exact / inclusion_probability / num_labels
--   stderr, weighted_stderr   of the draw, from sum (1 - p) / p^2 d^2, d the term that is weighted (Poisson sampling:
--                   what a sample of fixed size is somewhat below)
-- public: difference_estimates
create view difference_estimates as
with screened as (
    select
        g.trajectory_id, g.action, g.node_level, g.first_token, g.node_index, g.cursor_delta_nll as estimates,
        e.cursor_delta_nll as exacts, e.inclusion_probability as p
    from effects as g
    left join effects as e
        on e.trajectory_id = g.trajectory_id and e.action = g.action and e.node_level = g.node_level
        and e.node_index = g.node_index and e.estimator = 'exact' and e.status = 'ok'
    where g.estimator = 'gradient' and g.inclusion_probability is null and g.status = 'ok'
),

at_cursors as (
    select
        s.action, s.node_level, s.node_index, s.p, t.run_id, t.block_size, t.protected_tail,
        unnest(t.cursors) as cursor, unnest(s.estimates) as estimate, unnest(s.exacts) as exact
    from screened as s
    join trajectories as t using (trajectory_id)
),

legal as (
    from at_cursors
    where (node_index + 1) * (block_size ** node_level)::bigint
        <= cursor - case action when 'collapse' then protected_tail else 0 end
)

select
    run_id,
    action,
    node_level,
    count(*) as num_labels,
    count(exact) as num_exact,
    (sum(estimate) + coalesce(sum((exact - estimate) / p), 0)) / num_labels as mean,
    sqrt(coalesce(sum((1 - p) / p ** 2 * (exact - estimate) ** 2), 0)) / num_labels as stderr,
    coalesce(sum(exact / p), 0) / num_labels as weighted_mean,
    sqrt(coalesce(sum((1 - p) / p ** 2 * exact ** 2), 0)) / num_labels as weighted_stderr
from legal
group by run_id, action, node_level;
