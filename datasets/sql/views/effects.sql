-- effects: one row per trajectory, measured action or control, and estimator. delta_nll is nats per token, after
-- minus before, raw and signed, for the tokens [first_token, last cursor + horizon); null where status is not
-- 'ok'. action is expand, collapse or drop (the span left out with no gist: a control, see controls).
-- gradient_stretches: of a gradient estimate, the tokens of each stretch over which delta_nll is one mean; else null.
-- public: effects
create view effects as
select
    *,
    first_token + coalesce(len(delta_nll), 0) as end_token
from stored_effects;
