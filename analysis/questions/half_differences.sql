-- half_differences: one row per horizon of 8, 16, 32, ... tokens up to the collected one: how often the two halves of
-- one label's horizon differ by more than two standard errors of that difference. If an edit did as much on both,
-- a right standard error of normal noise would put 4.6% there; more says that standard errors are too small, or that
-- effects do not last. So it is the line above which a share of labels beyond two standard errors means anything.
-- From the per-token effects of at most `most_trajectories` trajectories (a variable; 300), drawn by a hash of their
-- ids; labels count once each. The standard error of a half is the larger of the plain one and that which allows for
-- correlated neighbours.
--   share_beyond  of num_labels; labels without any spread are left out
-- asks: how often do the halves of a horizon contradict each other?
with cut as (
    select
        unnest(list_distinct(list_filter(
            [8, 16, 32, 64, 128, 256, 512, 1024, horizon], lambda h: h between 8 and horizon
        ))) as horizon,
        delta_nll
    from drawn_token_effects(coalesce(getvariable('most_trajectories'), 300))
),

halves as (
    select
        horizon,
        delta_nll[: horizon // 2]::double[] as first_half,
        delta_nll[horizon // 2 + 1 : 2 * (horizon // 2)]::double[] as second_half
    from cut
),

differences as (
    select
        horizon,
        list_avg(first_half) - list_avg(second_half) as difference,
        greatest(
            list_var_samp(first_half) / len(first_half), newey_west_stderr(first_half) ** 2
        ) + greatest(
            list_var_samp(second_half) / len(second_half), newey_west_stderr(second_half) ** 2
        ) as variance
    from halves
)

select
    horizon,
    count(*) as num_labels,
    avg((abs(difference) > 2 * sqrt(variance))::int) as share_beyond
from differences
where variance > 0
group by horizon
order by horizon
