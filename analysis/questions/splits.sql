-- splits: one row per split of the documents, in the order train, validation, test: what each holds.
-- Plain counts, no weights. num_measured_documents counts documents with at least one label.
-- asks: what does each split hold?
select
    d.split,
    count(distinct d.document_id) as num_documents,
    count(distinct l.document_id) as num_measured_documents,
    count(distinct l.snapshot_id) as num_labelled_snapshots,
    count(l.snapshot_id) as num_labels
from documents as d
left join labels as l using (document_id)
group by d.split
order by list_position(['train', 'validation', 'test'], d.split) nulls last, d.split
