-- preference_pairs, read through a derived dataset of pairs: the pairs that its recipe kept.
create view preference_pairs as
select *
from stored_derived_pairs;
