-- significant: labels that stand out of their own noise: |delta_nll| > z * its standard error over the horizon's
-- tokens, the larger of the plain one and hac_stderr. Variables: z (2), horizon (as collected).
select *
from labels_at(getvariable('horizon'))
where abs(delta_nll) > coalesce(getvariable('z'), 2) * greatest(stderr, hac_stderr)
