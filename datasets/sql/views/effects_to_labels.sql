-- Steps from effects to labels. read_effects(kept): one row per trajectory and action or control that has a number:
-- where an action was measured by a cheaper estimator and exactly (an audit), the exact row stands. Estimates that
-- only screened (no inclusion probability) are no labels. kept: true for
-- effects that keep their means (cursor_delta_nll), false for those that do not, null for all; whether a row is audited
-- depends on all of them.
create macro read_effects(kept) as table
-- Materialized: a dataset is written in the order in which its rows are read.
with measured as materialized (
    from effects
    where status = 'ok' and inclusion_probability is not null and (kept is null or (cursor_delta_nll is not null) = kept)
),

-- Two small joins in place of one over all effects: most stores have no windowed row at all.
audited as (
    select trajectory_id, action, node_level, node_index
    from (from effects where status = 'ok' and estimator = 'exact')
    semi join (from measured where estimator <> 'exact')
        using (trajectory_id, action, node_level, node_index)
)

from measured
where estimator = 'exact'
union all
from (
    from (from measured where estimator <> 'exact')
    anti join audited using (trajectory_id, action, node_level, node_index)
);

-- is_stretch_end(stretches, token): whether a gradient estimate's stretches are cut before its token `token`.
create macro is_stretch_end(stretches, token) as token = 0 or list_contains(
    list_transform(range(1, len(stretches) + 1), lambda i: list_sum(stretches[:i])), token
);

-- spans_near(h, jitter, seed, most, kept): one row per label or drop, as an effect and a cursor: at cursors up to
-- `jitter` tokens from those that were planned, by chance and inside what was measured; the planned ones themselves are
-- left out, unless jitter is 0: then it is at exactly those. Any cursor between a trajectory's first and last has its
-- horizon measured. `most`: of a sample of trajectories (drawn_trajectories), chosen here, before any list is read;
-- null for all.
create macro spans_near(h, jitter, seed, most, kept) as table
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
        t.first_cursor, t.cursors, t.model_hash, t.gist_hash, t.dtype, t.absence,
        t.semantics, t.gist_positions,
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
),

spans as (
    select
        e.* exclude (trajectory_id),
        p.* exclude (absence),
        is_control(e.action, e.node_level, e.entry_level, p.absence) as is_control,
        (e.node_index + 1) * (p.block_size ** e.node_level)::bigint as node_end
    from read_effects(kept) as e
    join placed as p using (trajectory_id)
)

from spans
where node_end <= cursor - case when keeps_off_tail(action, is_control) then protected_tail else 0 end;

-- spans_and_tokens(...): the same with the effect on each token of the horizon, in horizon_delta_nll.
create macro spans_and_tokens(h, jitter, seed, most, kept) as table
select
    *,
    case
        when cursor - first_token + label_horizon <= list_count(delta_nll)
            then delta_nll[cursor - first_token + 1 : cursor - first_token + label_horizon]
        else error('an effect of trajectory ' || trajectory_id || ' lacks tokens (mctrace verify)')
    end as horizon_delta_nll
from spans_near(h, jitter, seed, most, kept);

create macro horizons_near(h, jitter, seed, most) as table from spans_and_tokens(h, jitter, seed, most, null);

-- measured_near(h, jitter, seed, most): like labels, drops included, at the same cursors. At the planned cursors and
-- the collected horizon an effect that keeps its means is read without its tokens; all else is worked out from them.
-- There the standard error comes from an inner product in double precision, which takes a fraction of
-- list_stddev_samp's time.
create macro measured_near(h, jitter, seed, most) as table
with kept as (
    select
        * exclude (delta_nll),
        cursor_delta_nll[list_position(cursors, cursor)] as mean,
        cursor_stderr[list_position(cursors, cursor)] as stderr,
        -- Read from the tokens, by those queries alone that ask for it.
        case
            when gradient_stretches is null
                then newey_west_stderr(delta_nll[cursor - first_token + 1 : cursor - first_token + label_horizon])
        end as hac_stderr
    from spans_near(h, jitter, seed, most, true)
    where h is null and jitter = 0
),

horizons as (
    select * exclude (delta_nll, horizon_delta_nll), horizon_delta_nll::double[] as effects
    from spans_and_tokens(h, jitter, seed, most, case when h is null and jitter = 0 then false end)
),

sums as (
    select
        *,
        case
            when gradient_stretches is null
                or (is_stretch_end(gradient_stretches, cursor - first_token)
                    and is_stretch_end(gradient_stretches, cursor - first_token + label_horizon))
                then list_sum(effects) / label_horizon
            else error(
                'gradient estimates of trajectory ' || trajectory_id || ' are means of longer stretches than a horizon of '
                || label_horizon || ': collect with gradient_segment, or ask for the collected horizon'
            )
        end as mean,
        list_inner_product(effects, effects) as sum_of_squares
    from horizons
),

moments as (
    from kept
    union all by name
    select
        * exclude (effects, sum_of_squares),
        case
            when label_horizon > 1 and gradient_stretches is null
                then sqrt(
                    greatest(sum_of_squares - mean ** 2 * label_horizon, 0) / (label_horizon - 1) / label_horizon
                )
        end as stderr,
        case when gradient_stretches is null then newey_west_stderr(effects) end as hac_stderr
    from sums
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
    stderr,
    hac_stderr,
    case when action in ('expand', 'insert') then -mean else mean end as value_of_detail,
    case
        when action in ('expand', 'collapse')
            then block_size * case when node_level = 1 then 1 else gist_positions end - gist_positions
        else (block_size ** (node_level::int - entry_level::int))::int
            * case when entry_level = 0 then 1 else gist_positions end
    end as positions,
    inclusion_probability,
    estimator,
    estimator_window,
    -- Joined last, so that fewer rows carry a context's masses; most actions have one entry, and take one.
    case
        when num_entries = 1 then a.attention_mass[first_entry + 1]
        else list_sum(a.attention_mass[first_entry + 1 : first_entry + num_entries])
    end as attention_mass,
    model_hash,
    gist_hash,
    dtype,
    semantics,
    is_control
from moments
left join stored_attention as a using (trajectory_id);

create macro measured_at(h) as table from measured_near(h, 0, 0, null);
