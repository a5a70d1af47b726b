-- What labels are made of. read_effects has one row per trajectory and action or control that has a number: where
-- an action was measured by a cheaper estimator and exactly (an audit), the exact row stands.
create view read_effects as
with measured as not materialized (
    from effects
    where status = 'ok'
),

-- Two small joins in place of one over all effects: most stores have no windowed row at all.
audited as (
    select trajectory_id, action, node_level, node_index
    from measured
    semi join (from measured where estimator <> 'exact') using (trajectory_id, action, node_level, node_index)
    where estimator = 'exact'
)

from measured
where estimator = 'exact'
union all
from (
    from (from measured where estimator <> 'exact')
    anti join audited using (trajectory_id, action, node_level, node_index)
);

-- horizons_near(h, jitter, seed, most): one row per label or drop with its effect on each token of the horizon, in
-- horizon_delta_nll: at cursors up to `jitter` tokens from those that were planned, by chance and inside what was
-- measured; the planned ones themselves are left out, unless jitter is 0: then it is at exactly those. Any cursor
-- between a trajectory's first and last has its horizon measured. `most`: of a sample of trajectories
-- (drawn_trajectories), chosen here, before any list is read; null for all.
create macro horizons_near(h, jitter, seed, most) as table
-- Two branches, of which the planner drops one: without a sample there is nothing to join.
with asked as (
    from trajectories
    where most is null
    union all by name
    from (from trajectories semi join drawn_trajectories(most) using (trajectory_id))
    where most is not null
),

placed as (
    select
        t.trajectory_id, t.run_id, t.document_id, t.source, t.split, t.policy, t.block_size, t.protected_tail,
        t.first_cursor, t.model_hash, t.gist_hash, t.dtype, a.attention_mass,
        case
            when coalesce(h, t.horizon) between 1 and t.horizon then coalesce(h, t.horizon)
            else error(
                'horizon ' || h || ' is outside 1 to ' || t.horizon || ', the tokens measured in run '
                || t.run_id || ': ask for at most that, or leave the run out (where run_id <> ...)'
            )
        end as label_horizon,
        unnest(
            case
                when jitter = 0 then t.cursors
                else list_filter(
                    list_sort(list_distinct(list_transform(
                        t.cursors,
                        lambda c: least(t.last_cursor, greatest(t.first_cursor,
                            c + floor(chance(concat_ws(':', t.trajectory_id, c), seed) * (2 * jitter + 1))::bigint
                            - jitter
                        ))
                    ))),
                    lambda c: not list_contains(t.cursors, c)
                )
            end
        ) as cursor
    from asked as t
    left join stored_attention as a using (trajectory_id)
),

spans as (
    select
        e.* exclude (trajectory_id),
        p.* exclude (attention_mass),
        list_sum(p.attention_mass[e.first_entry + 1 : e.first_entry + e.num_entries]) as attention_mass,
        (e.node_index + 1) * (p.block_size ** e.node_level)::bigint as node_end
    from read_effects as e
    join placed as p using (trajectory_id)
)

select
    *,
    case
        when cursor - first_token + label_horizon <= list_count(delta_nll)
            then delta_nll[cursor - first_token + 1 : cursor - first_token + label_horizon]
        else error('an effect of trajectory ' || trajectory_id || ' lacks tokens (mctrace verify)')
    end as horizon_delta_nll
from spans
where node_end <= cursor - case action when 'collapse' then protected_tail else 0 end;

-- measured_near(h, jitter, seed, most): like labels, drops included, at the same cursors. The standard error
-- comes from an inner product in double precision, which takes a fraction of list_stddev_samp's time.
create macro measured_near(h, jitter, seed, most) as table
with horizons as (
    select *, horizon_delta_nll::double[] as effects
    from horizons_near(h, jitter, seed, most)
),

moments as (
    select
        *,
        list_sum(effects) / label_horizon as mean,
        list_inner_product(effects, effects) as sum_of_squares
    from horizons
)

select
    run_id,
    trajectory_id,
    trajectory_id || ':' || cursor as snapshot_id,
    document_id,
    source,
    split,
    policy,
    cursor,
    cursor - first_cursor as cursor_offset,
    action,
    node_level,
    node_index,
    entry_level,
    (block_size ** node_level)::bigint as span_width,
    cursor - node_end as distance_to_cursor,
    label_horizon as horizon,
    mean as delta_nll,
    case
        when label_horizon > 1
            then sqrt(greatest(sum_of_squares - mean ** 2 * label_horizon, 0) / (label_horizon - 1) / label_horizon)
    end as stderr,
    case action when 'expand' then -mean else mean end as value_of_detail,
    block_size - 1 as positions,
    inclusion_probability,
    estimator,
    estimator_window,
    attention_mass,
    model_hash,
    gist_hash,
    dtype
from moments;

create macro measured_at(h) as table from measured_near(h, 0, 0, null);

-- token_effects: one row per label with its effect on each token of the collected horizon: delta_nll[1] is that of the
-- token at the cursor. Not changed by a derived dataset. drawn_token_effects(most): of a sample of trajectories.
create macro drawn_token_effects(most) as table
select
    run_id,
    trajectory_id,
    trajectory_id || ':' || cursor as snapshot_id,
    document_id,
    split,
    cursor,
    action,
    node_level,
    node_index,
    entry_level,
    label_horizon as horizon,
    horizon_delta_nll as delta_nll,
    inclusion_probability
from horizons_near(null, 0, 0, most)
where action <> 'drop';

create view token_effects as from drawn_token_effects(null);
