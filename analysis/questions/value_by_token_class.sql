-- value_by_token_class: one row per action, entry_level and class of the predicted tokens: where in the horizon detail
-- makes a difference. From the per-token effects of at most `most_labels` labels (a variable; 20000)
-- of at most `most_trajectories` trajectories (a variable; 300), both drawn by a hash; every token of their horizons
-- counts once, unweighted. Nats per token.
--   token_class   word (a new one, or text between spaces), continuation (of a word), number, punctuation, newline,
--                 space, other; 'unknown' where the store has no vocabulary (before mctrace kept it)
--   num_tokens    number of tokens read
--   mean          mean value of detail at such tokens; mean_abs its mean size
--   mean_stderr   standard error of the mean with documents as clusters; null with one document
--   share_of_value  their part of the value over all tokens of that action and level
-- Reads document_tokens, which mctrace loads for queries that name it.
-- asks: which kinds of predicted tokens does detail help?
with numbered as (
    select *, md5(concat_ws(':', snapshot_id, action, node_level, node_index)) as lot
    from drawn_token_effects(coalesce(getvariable('most_trajectories'), 300))
),

-- The lots are sorted without the effects.
drawn as (
    select *
    from numbered
    where lot <= (
        select max(lot)
        from (select lot from numbered order by lot limit coalesce(getvariable('most_labels'), 20000))
    )
),

horizons as (
    select s.document_id, s.cursor, s.horizon, t.tokenizer_hash, t.tokens[s.cursor + 1 : s.cursor + s.horizon] as tokens
    from (select distinct document_id, cursor, horizon from drawn) as s
    join document_tokens as t using (document_id)
),

at_tokens as (
    select
        d.action,
        d.entry_level,
        d.document_id,
        case when d.action in ('expand', 'insert') then -1 else 1 end * unnest(d.delta_nll) as value,
        unnest(h.tokens) as token_id,
        h.tokenizer_hash
    from drawn as d
    join horizons as h using (document_id, cursor, horizon)
),

by_token as (
    select
        action,
        entry_level,
        document_id,
        tokenizer_hash,
        token_id,
        count(*) as num_tokens,
        sum(value) as total,
        sum(abs(value)) as total_abs
    from at_tokens
    group by all
),

by_document as (
    select
        b.action,
        b.entry_level,
        b.document_id,
        coalesce(v.token_class, 'unknown') as token_class,
        sum(b.num_tokens)::bigint as weight,
        sum(b.total) as total,
        sum(b.total_abs) as total_abs
    from by_token as b
    left join vocabulary as v using (tokenizer_hash, token_id)
    group by all
),

classes as (
    select
        action,
        entry_level,
        token_class,
        sum(weight)::bigint as num_tokens,
        sum(total) / sum(weight) as mean,
        clustered_stderr(total, weight) as mean_stderr,
        sum(total_abs) / sum(weight) as mean_abs,
        sum(total) as total
    from by_document
    group by action, entry_level, token_class
)

select
    action,
    entry_level,
    token_class,
    num_tokens,
    mean,
    mean_stderr,
    mean_abs,
    total / nullif(sum(total) over (partition by action, entry_level), 0) as share_of_value
from classes
order by action = 'collapse', action, entry_level, num_tokens desc, token_class
