-- is_control(...): whether a drop is no action of the snapshot but a control: where blocks cannot be absent, and where
-- it leaves out several gists at once. keeps_off_tail: whether an action may not touch the protected tail.
create macro is_control(action, node_level, entry_level, absence) as
    action = 'drop' and (coalesce(absence, 'off') = 'off' or (node_level > 1 and entry_level < node_level));

create macro keeps_off_tail(action, is_control) as action = 'collapse' or (action = 'drop' and not is_control);
