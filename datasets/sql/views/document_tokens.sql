-- document_tokens: one row per document: its token ids, read from the Zarr arrays when the view is queried.
-- public: document_tokens
create view document_tokens as
select *
from stored_document_tokens;
