"""The questions of the SQL benchmark, each twice: over mctrace's views and over bare Parquet files.

The bare SQL is what an expert writes for this very store: file lists by hand, only the columns and joins that
the question needs, and the rules of a label (legality, audits) in their leanest form. Both must give the same
answer.
"""

from dataclasses import dataclass

SPOTS = """
    spots as (
        select trajectory_id, protected_tail, block_size, horizon, cursors, unnest(cursors) as cursor
        from read_parquet({trajectories})
    )"""

LEGAL = """(e.node_index + 1) * (s.block_size ** e.node_level)::bigint
        <= s.cursor - case e.action when 'collapse' then s.protected_tail else 0 end"""

ONCE = """
    cheap as (
        select trajectory_id, action, node_level, node_index from read_parquet({effects})
        where estimator <> 'exact' and status = 'ok'
    ),
    audited as (
        select trajectory_id, action, node_level, node_index from read_parquet({effects})
        semi join cheap using (trajectory_id, action, node_level, node_index)
        where estimator = 'exact' and status = 'ok'
    ),
    once as (
        from read_parquet({effects}) where estimator = 'exact' and status = 'ok' and action <> 'drop'
        union all
        from (from read_parquet({effects}) where estimator <> 'exact' and status = 'ok' and action <> 'drop')
        anti join audited using (trajectory_id, action, node_level, node_index)
    )"""


def _labels(columns: str) -> str:
    """CTEs of which the last, `cut`, has one row per label with `columns`."""
    return f"""with {SPOTS}, {ONCE},
    cut as (
        select e.*, s.cursor, {columns}
        from once as e join spots as s using (trajectory_id)
        where {LEGAL}
    )"""


LABELS_AT_64 = _labels("delta_nll[s.cursor - e.first_token + 1 : s.cursor - e.first_token + 64] as values")
LABELS = _labels(
    "e.cursor_delta_nll[list_position(s.cursors, s.cursor)] as mean, "
    "e.cursor_stderr[list_position(s.cursors, s.cursor)] as stderr"
)
"""At the collected horizon the means that are stored beside the effects suffice."""


@dataclass(frozen=True)
class Question:
    """One comparison. In `bare` {table} stands for a table's files; `ours` reads through `dataset`."""

    name: str
    ours: str
    bare: str
    dataset: str | None = None


_SUMMARY = "count(*) as n, avg(delta_nll) as mean, avg(stderr) as noise"

QUESTIONS = (
    Question(
        "labels_at_64",
        f"select action, entry_level, {_SUMMARY} from labels_at(64) group by all order by all",
        LABELS_AT_64
        + """
        select action, entry_level, count(*) as n, avg(list_avg(values)) as mean,
            avg(list_stddev_samp(values) / sqrt(64)) as noise
        from cut group by all order by all""",
    ),
    Question(
        "labels",
        f"select action, entry_level, {_SUMMARY} from labels group by all order by all",
        LABELS
        + """
        select action, entry_level, count(*) as n, avg(mean) as mean, avg(stderr) as noise
        from cut group by all order by all""",
    ),
    Question(
        "grouped_quantiles",
        """select action, entry_level, floor(log2(distance_to_cursor + 1)) as octave,
            quantile_cont(value_of_detail, [0.05, 0.5, 0.95]) as q
        from labels group by all order by all""",
        """select action, entry_level, floor(log2(distance_to_cursor + 1)) as octave,
            quantile_cont(value_of_detail, [0.05, 0.5, 0.95]) as q
        from read_parquet({derived_labels}) group by all order by all""",
        dataset="ten_million",
    ),
    Question(
        "preference_pairs",
        "select split, count(*) as n, avg(strength) as mean from preference_pairs group by all order by all",
        """with losses as (
            select variant_group, document_id, policy, unnest(cursors) as cursor,
                list_avg(baseline_nll[cursor - cursors[1] + 1 : cursor - cursors[1] + horizon]) as loss
            from read_parquet({trajectories}) where variant_group is not null
        ),
        variants as (
            select v.*, v.loss - b.loss as adv_delta
            from losses as v join losses as b using (variant_group, cursor) where b.policy = 'variant_lod0'
        ),
        splits as (select document_id, any_value(split) as split from read_parquet({documents}) group by 1)
        select split, count(*) as n, avg(w.adv_delta - b.adv_delta) as mean
        from variants as b join variants as w using (variant_group, cursor)
        join splits as d on d.document_id = b.document_id
        where b.adv_delta < w.adv_delta group by all order by all""",
    ),
)

COPIES = """
select l.* replace (l.snapshot_id || '#' || copy as snapshot_id)
from labels as l
cross join (select unnest(range(10)) as copy)
"""
"""Ten million labels of a million, each snapshot ten times."""

ALL_COLUMNS = """
    select
        t.run_id, c.trajectory_id, c.trajectory_id || ':' || c.cursor as snapshot_id, t.document_id, d.source,
        d.split, t.policy, c.cursor, c.cursor - t.cursors[1] as cursor_offset, c.action, c.node_level,
        c.node_index, c.entry_level, (t.block_size ** c.node_level)::bigint as span_width, c.cursor -
        (c.node_index + 1) * (t.block_size ** c.node_level)::bigint as distance_to_cursor, t.horizon,
        c.mean as delta_nll, c.stderr, case c.action
        when 'expand' then -1 else 1 end * c.mean as value_of_detail, t.block_size - 1 as
        positions, c.inclusion_probability, c.estimator, c.estimator_window,
        list_sum(a.attention_mass[c.first_entry + 1 : c.first_entry + c.num_entries]) as attention_mass,
        t.model_hash, t.gist_hash, t.dtype
    from cut as c
    join read_parquet({trajectories}) as t using (trajectory_id)
    join (select document_id, any_value(source) as source, any_value(split) as split
          from read_parquet({documents}) group by 1) as d using (document_id)
    left join read_parquet({attention}) as a using (trajectory_id)"""

DERIVATIONS = (
    Question(
        "derive_from_effects",
        "select * from labels where abs(delta_nll) > 2 * stderr",
        f"{LABELS} select * from ({ALL_COLUMNS}) where abs(delta_nll) > 2 * stderr",
    ),
    Question(
        "derive_from_labels",
        "select * from labels where distance_to_cursor between 1000 and 8000",
        "select * from read_parquet({derived_labels}) where distance_to_cursor between 1000 and 8000",
        dataset="ten_million",
    ),
)
"""Datasets made by `derive`, which also checks, prices and hashes them, against a bare COPY."""
