-- vocabulary: one row per tokenizer and token id: its text, and what kind of text that is. Empty for what a store holds
-- from before mctrace kept it.
create view vocabulary as
select
    tokenizer_hash,
    token_id,
    any_value(text) as text,
    case
        when regexp_full_match(any_value(text), '\s+')
            then case when contains(any_value(text), chr(10)) then 'newline' else 'space' end
        when regexp_full_match(any_value(text), '\s*[0-9][0-9.,_]*') then 'number'
        when regexp_full_match(any_value(text), '\s+[\pL_][\pL\pM_0-9]*.*') then 'word'
        when regexp_full_match(any_value(text), '[\pL_][\pL\pM_0-9]*.*') then 'continuation'
        when regexp_full_match(any_value(text), '\s*[\pP\pS]+\s*') then 'punctuation'
        else 'other'
    end as token_class
from stored_vocabulary
group by tokenizer_hash, token_id;
