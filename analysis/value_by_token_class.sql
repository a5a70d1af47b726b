-- value_by_token_class: one row per action, entry_level and class of the tokens that are predicted: for which tokens of
-- the horizon detail makes a difference. From the per-token effects of at most `most_labels` labels (a variable;
-- 20000), drawn by hash; every token of their horizons counts once, unweighted. Nats per token.
--   token_class   word (a new one, or text between spaces), continuation (of a word), number, punctuation, newline,
--                 space, other; 'unknown' where the store has no vocabulary (before mctrace kept it)
--   mean          mean value of detail at such tokens; mean_abs its mean size
--   share_of_value  their part of the value over all tokens of that action and level
-- Reads document_tokens, which mctrace brings in for queries that name it.
with drawn as (
    select *
    from token_effects
    order by md5(concat_ws(':', snapshot_id, action, node_level, node_index))
    limit coalesce(getvariable('most_labels'), 20000)
),

at_tokens as (
    select
        d.action,
        d.entry_level,
        case d.action when 'expand' then -1 else 1 end * unnest(d.delta_nll) as value,
        unnest(t.tokens[d.cursor + 1 : d.cursor + d.horizon]) as token_id,
        t.tokenizer_hash
    from drawn as d
    join document_tokens as t using (document_id)
),

classes as (
    select
        a.action,
        a.entry_level,
        coalesce(v.token_class, 'unknown') as token_class,
        count(*) as num_tokens,
        avg(a.value) as mean,
        avg(abs(a.value)) as mean_abs,
        sum(a.value) as total
    from at_tokens as a
    left join vocabulary as v using (tokenizer_hash, token_id)
    group by all
)

select
    action,
    entry_level,
    token_class,
    num_tokens,
    mean,
    mean_abs,
    total / nullif(sum(total) over (partition by action, entry_level), 0) as share_of_value
from classes
order by action = 'collapse', action, entry_level, num_tokens desc, token_class
