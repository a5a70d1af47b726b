-- vocabulary: one row per tokenizer and token id: its text, and what kind of text that is. Empty for tokenizers of
-- stores written before mctrace kept it. An id that is a part of a character has no text of its own (U+FFFD): the texts of tokens
-- are joined by their bytes.
-- public: vocabulary
create view vocabulary as
select
    v.tokenizer_hash,
    v.token_id,
    any_value(v.text) as text,
    coalesce(any_value(b.bytes), encode(any_value(v.text))) as bytes,
    case
        when regexp_full_match(any_value(v.text), '\s+')
            then case when contains(any_value(v.text), chr(10)) then 'newline' else 'space' end
        when regexp_full_match(any_value(v.text), '\s*[0-9][0-9.,_]*') then 'number'
        when regexp_full_match(any_value(v.text), '\s+[\pL_][\pL\pM_0-9]*.*') then 'word'
        when regexp_full_match(any_value(v.text), '[\pL_][\pL\pM_0-9]*.*') then 'continuation'
        when regexp_full_match(any_value(v.text), '\s*[\pP\pS]+\s*') then 'punctuation'
        else 'other'
    end as token_class
from stored_vocabulary as v
left join stored_token_bytes as b using (tokenizer_hash, token_id)
group by v.tokenizer_hash, v.token_id;
