-- above_noise_floor: labels larger than what the order of arithmetic alone makes of a label in their run: |delta_nll| >
-- factor * the run's noise floor. Variables: factor (1).
select l.*
from labels as l
join runs as r using (run_id)
where
    abs(l.delta_nll) > coalesce(getvariable('factor'), 1) * coalesce(
        greatest(r.noise_floor.no_op, coalesce(r.noise_floor.regrouped, 0)),
        error('run ' || run_id || ' measured no noise floor: filter by its own number instead')
    )
