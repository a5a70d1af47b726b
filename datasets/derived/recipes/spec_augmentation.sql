-- spec_augmentation: the source's augmentation (docs/specification/data.md#augmentation): every trace as it is, three
-- in ten again at moved cursors (temporal jitter), two in ten again with Gaussian noise of 0.05 on their utilities. Its
-- third technique is the recipe partial_windows. Only training snapshots are copied.
from labels
union all by name
from labels_jittered(null, 8, 0.3, getvariable('seed'))
union all by name
from labels_smoothed(0.05, 0.2, getvariable('seed'))
