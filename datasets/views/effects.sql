-- effects: one row per trajectory and measured action. delta_nll is nats per token, after minus before, raw and
-- signed, for the tokens [first_token, last cursor + horizon); null where status is not 'ok'.
create view effects as
select
    *,
    first_token + coalesce(len(delta_nll), 0) as end_token
from stored_effects;
