-- literal: the source's target (docs/specification/targets.md#literal), nats per token. A row per label.
--   expand, insert    max(0, -delta_nll)    what showing more gains
--   collapse, drop    -max(0, delta_nll)    minus what showing less costs
-- Mind: the costliest collapse gets the lowest score, and an allocator that collapses the lowest scores first
-- destroys what matters most. `priced` is the reading that does not.
-- merge: largest
select
    *,
    case
        when action in ('expand', 'insert') then greatest(0, -delta_nll)
        else -greatest(0, delta_nll)
    end as utility
from labels
