-- documents: one row per document (its tokens and gists are in Zarr, found through stored_documents).
-- split is decided once, by near-duplicate group; num_tokens counts the tokens kept from the source. metadata is what
-- corpus.metadata_columns kept of the source's row: metadata->>'language' is a text.
-- public: documents
create view documents as
select
    document_id,
    any_value(source) as source,
    any_value(split) as split,
    any_value(split_group) as split_group,
    any_value(num_tokens) as num_tokens,
    any_value(tokenizer_hash) as tokenizer_hash,
    max(metadata)::json as metadata
from stored_documents
group by document_id;
