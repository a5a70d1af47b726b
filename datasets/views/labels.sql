-- labels: one row per run, trajectory, cursor, node and action that is legal at that cursor.
--   delta_nll        mean over the horizon's tokens, nats per token, after minus before
--   stderr           its standard error over those tokens; null at a horizon of one
--   value_of_detail  NLL(coarse) - NLL(fine): -delta_nll of an expand, +delta_nll of a collapse
--   positions        working-context positions an expand costs or a collapse frees
--   distance_to_cursor  tokens from the node's end to the cursor
-- labels is at the collected horizon; labels_at(h) at any shorter one. A horizon beyond the measured tokens, or
-- an effect that has too few of them, is an error, never a shorter mean. Where an action was measured by a
-- cheaper estimator and exactly (an audit), the exact row stands.
--   attention_mass   what the base model's attention pays the action's entries together, where it was kept: a
--                    mean over all that is read in the trajectory, so the same for each of its cursors
-- measured_at(h) has the drops as well; they are no labels (see controls).
create macro labels_at(h) as table from measured_at(h) where action <> 'drop';

create view labels as from labels_at(null);
