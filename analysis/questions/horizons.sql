-- horizons: one row: the shortest and the longest horizon, in tokens, at which labels were collected, and
-- how many different settings (base model, gists, dtype, estimator) measured them. Null and 0 without labels.
select
    min(horizon) as shortest_horizon,
    max(horizon) as longest_horizon,
    count(distinct (model_hash, gist_hash, dtype, estimator)) as num_settings
from labels
