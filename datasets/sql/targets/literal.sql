-- literal: the source's target (docs/specification/targets.md#literal), nats per token. A row per label.
--   expand    max(0, -delta_nll)    what expanding gains
--   collapse  -max(0, delta_nll)    minus what collapsing costs
-- Mind: the costliest collapse gets the lowest score, and an allocator that collapses the lowest scores first
-- destroys what matters most. `priced` is the reading that does not.
-- merge: largest
select
    *,
    case action
        when 'expand' then greatest(0, -delta_nll)
        else -greatest(0, delta_nll)
    end as utility
from labels
