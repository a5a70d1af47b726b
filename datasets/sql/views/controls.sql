-- controls: one row per label whose span was also measured left out, with nothing in its place, both by the same
-- estimator; an insert or a drop is that measurement itself, of the text or of the gist. All in nats per
-- token, positive when the horizon's tokens are better predicted with it:
--   information_value   NLL(nothing there) - NLL(its children there): what the text itself is worth
--   gist_value          NLL(nothing there) - NLL(its gist there): negative when the gist is worse than nothing
--   value_of_detail     as in labels: of an expand or a collapse, information_value - gist_value
-- public: controls, controls_at
create macro controls_at(h) as table
select
    l.*,
    case l.action when 'expand' then d.delta_nll - l.delta_nll else d.delta_nll end as information_value,
    case l.action when 'expand' then d.delta_nll else d.delta_nll - l.delta_nll end as gist_value
from labels_at(h) as l
join measured_at(h) as d
    on d.action = 'drop' and d.estimator = l.estimator and d.trajectory_id = l.trajectory_id and d.cursor = l.cursor
    and d.node_level = l.node_level and d.node_index = l.node_index
where l.action in ('expand', 'collapse')
union all
select
    *,
    case when entry_level = 0 then value_of_detail end as information_value,
    case when entry_level > 0 then value_of_detail end as gist_value
from labels_at(h)
where action in ('insert', 'drop');

create view controls as from controls_at(null);
