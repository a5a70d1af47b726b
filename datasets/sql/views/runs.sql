-- runs: one row per collection run; ended_at and outcome are null for a run that was killed.
-- noise_floor is the largest difference of a label, nats per token, from the order of arithmetic alone (an edit
-- that changes nothing; another batch composition). calibration (before) and audit (during) compare windowed
-- or gradient with exact labels; calibration_strata the same by action and level.
-- probe is what its workers agreed on before they measured: loss and labels of a seeded trajectory that depends on the
-- tokenizer alone, so that other weights under the same hash are noticed.
-- public: runs
create view runs as
select
    run_id,
    min(recorded_at) filter (where event = 'start') as started_at,
    max(recorded_at) filter (where event = 'end') as ended_at,
    any_value(outcome) filter (where event = 'end') as outcome,
    any_value(model_name) as model_name,
    any_value(model_revision) as model_revision,
    any_value(model_hash) as model_hash,
    any_value(tokenizer_hash) as tokenizer_hash,
    any_value(gist_source) as gist_source,
    any_value(gist_hash) as gist_hash,
    coalesce(any_value(semantics), 're_encoded') as semantics,
    coalesce(any_value(gist_positions), 1) as gist_positions,
    any_value(dtype) as dtype,
    any_value(estimator) as estimator,
    any_value(estimator_window) as estimator_window,
    any_value(noise_floor) as noise_floor,
    any_value(calibration) as calibration,
    any_value(calibration_strata) as calibration_strata,
    any_value(audit) as audit,
    any_value(probe) as probe,
    any_value(config) as config,
    any_value(software) as software
from stored_runs
group by run_id;
