-- jittered: all labels, and training snapshots again at cursors up to `jitter` tokens away, read from the measured
-- per-token effects. Variables: jitter (8 tokens), share of the snapshots that is read again (1), horizon (as
-- collected).
from labels_at(getvariable('horizon'))
union all by name
from labels_jittered(
    getvariable('horizon'), coalesce(getvariable('jitter'), 8), coalesce(getvariable('share'), 1), getvariable('seed')
)
