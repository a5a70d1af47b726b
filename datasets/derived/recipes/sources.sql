-- sources: labels of documents whose source matches a pattern. Variables: pattern (*; * and ? are wild cards, as in a
-- shell).
select *
from labels
where source glob coalesce(getvariable('pattern'), '*')
