-- datasets: one row per derived dataset (mctrace derive), with the recipe it can be made from again. Everything a
-- recipe may depend on is here: its text, seed and variables, and the version and dataset it read.
-- public: datasets
create view datasets as
select d.*, c.committed_at
from stored_datasets as d
left join stored_dataset_commits as c using (name);
