-- token_effects: one row per label with its effect on each token of the collected horizon: delta_nll[1] belongs to the
-- token at the cursor. A derived dataset does not change it; gradient estimates
-- have no values per token and are left out.
-- drawn_token_effects(most): of a sample of trajectories (drawn_trajectories).
-- public: token_effects, drawn_token_effects
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
where not is_control and gradient_stretches is null;

create view token_effects as from drawn_token_effects(null);
