-- run_checks: one row per collection run: what it found out about its own numbers. noise_floor in nats per token;
-- calibration (before) and audit (during) hold windowed labels against exact ones, null where neither was made.
select run_id, noise_floor, estimator, estimator_window, calibration, audit
from runs
order by run_id
