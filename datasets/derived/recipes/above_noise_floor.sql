-- above_noise_floor: labels larger than what the order of arithmetic alone makes of a label in their run: |delta_nll| >
-- factor * the run's noise floor. Variables: factor (1).
select l.*
from labels as l
join runs as r using (run_id)
where
    abs(l.delta_nll) > coalesce(getvariable('factor'), 1) * case
        -- greatest() would take the null for an absent argument
        when r.noise_floor.no_op is null
            then error('run ' || run_id || ' measured no noise floor: filter by a number of your own instead')
        else greatest(r.noise_floor.no_op, r.noise_floor.regrouped)
    end
