-- run_checks: one row per collection run: the checks of its own numbers. noise_floor in nats per token; calibration
-- (before) and audit (during) compare windowed or gradient labels with exact ones, null where there was none;
-- calibration_strata by action and level.
-- asks: what are each run's noise floor, calibration and audit?
select run_id, noise_floor, estimator, estimator_window, calibration, calibration_strata, audit
from runs
order by run_id
