-- partial_windows: all labels, and training snapshots again as windows of the newest part of their context ("partial
-- context windows"). Variables: min_share of the context that a window keeps (0.5), share of the snapshots (1).
from labels
union all by name
from labels_partial(
    coalesce(getvariable('min_share'), 0.5), coalesce(getvariable('share'), 1), getvariable('seed')
)
