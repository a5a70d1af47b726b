-- estimator_errors: one row per run, estimator, action and node_level that was calibrated: the root mean square of
-- exact - estimated, nats per token. For a label without a standard error of its own this is what a trainer that weighs
-- labels by their variance takes it for.
-- public: estimator_errors
create view estimator_errors as
select
    run_id,
    estimator,
    stratum.action,
    stratum.node_level::utinyint as node_level,
    sqrt(stratum.residual_variance) as residual_stderr
from (
    select run_id, estimator, unnest(calibration_strata) as stratum
    from runs
    where estimator <> 'exact'
);
