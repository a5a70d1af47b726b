-- run_checks: one row per collection run: the checks of its own numbers. noise_floor in nats per token; calibration
-- (before) and audit (during) compare windowed labels with exact ones, null where there was none.
-- asks: what are each run's noise floor, calibration and audit?
select run_id, noise_floor, estimator, estimator_window, calibration, audit
from runs
order by run_id
