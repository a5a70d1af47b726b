-- significant: labels that stand out of their own noise: |delta_nll| > z * its standard error over the horizon's
-- tokens, which allows for correlated neighbours (hac_stderr). Variables: z (2), horizon (as collected).
select *
from labels_at(getvariable('horizon'))
where abs(delta_nll) > coalesce(getvariable('z'), 2) * coalesce(hac_stderr, stderr)
