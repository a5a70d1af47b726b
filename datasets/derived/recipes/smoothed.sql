-- smoothed: all labels, and training snapshots again with Gaussian noise on their values. Variables: sigma (0.05 units
-- of score), share of the snapshots (1).
from labels
union all by name
from labels_smoothed(coalesce(getvariable('sigma'), 0.05), coalesce(getvariable('share'), 1), getvariable('seed'))
