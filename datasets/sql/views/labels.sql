-- labels: one row per run, trajectory, cursor, node and action that is legal at that cursor.
--   delta_nll        mean over the horizon's tokens, nats per token, after minus before
--   stderr           its standard error over those tokens; null at a horizon of one, and of a gradient estimate
--   hac_stderr       the same for tokens whose neighbours are correlated (newey_west_stderr): the larger
--                    of the two is the one to say "beyond two standard errors" by
--   value_of_detail  NLL(coarse) - NLL(fine): -delta_nll of an expand or insert, +delta_nll of a collapse or drop
--   positions        working-context positions that the action adds or frees
--   distance_to_cursor  tokens from the node's end to the cursor
-- labels is at the collected horizon; labels_at(h) at any shorter one. A horizon beyond the measured tokens, or
-- an effect that has too few of them, is an error, never a shorter mean. Where an action was measured by a
-- cheaper estimator and exactly (an audit), the exact row stands.
--   attention_mass   what the base model's attention pays the action's entries together, where it was kept: a
--                    mean over all that is read in the trajectory, so the same for each of its cursors
-- drawn_labels(most) is labels of at most that many trajectories (drawn_trajectories).
-- Where blocks may be absent (trajectories.absence), insert and drop are actions. measured_at(h) has the drops of other
-- trajectories as well; they are no labels but controls (see controls).
-- public: labels, labels_at, drawn_labels
create macro labels_at(h) as table
select * exclude (is_control)
from measured_at(h)
where not is_control;

create macro drawn_labels(most) as table
select * exclude (is_control)
from measured_near(null, 0, 0, most)
where not is_control;

-- label_halves(h, most): one row per label of at most `most` trajectories with its value of detail over the first h
-- tokens after the cursor and over the h tokens after those, nats per token. A horizon of 2h has to be measured.
create macro label_halves(h, most) as table
select
    document_id,
    trajectory_id,
    cursor,
    action,
    node_level,
    node_index,
    entry_level,
    case when action in ('expand', 'insert') then -1 else 1 end * list_sum(horizon_delta_nll[: h]) / h as first_value,
    case when action in ('expand', 'insert') then -1 else 1 end * list_sum(horizon_delta_nll[h + 1 :]) / h as second_value
from horizons_near(2 * h, 0, 0, most)
where not is_control and gradient_stretches is null;

create view labels as from labels_at(null);
