"""View of one snapshot: its spans in order with their text, and every legal action on them.

A span is the unit of an edit: a gist, or the tokens of one block. Both `mctrace show` and the report's
pages of snapshots are made from these values.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import duckdb
import numpy as np
import numpy.typing as npt

from mctrace.analysis.questions.catalogue import Row, narrowed, run_analysis
from mctrace.context.actions import Action, legal_actions
from mctrace.context.lod_map import LODMap
from mctrace.context.tree import ABSENT, Node, TreeShape, tree_of
from mctrace.datasets.sql.connection import fetch_rows
from mctrace.datasets.sql.detokenizer import Detokenizer
from mctrace.datasets.store.provenance import Provenance, Semantics
from mctrace.datasets.store.store import StoreVersion
from mctrace.datasets.store.zarr_arrays import ArrayFolder, DocumentPlace, read_document
from mctrace.errors import InputError, StoreError


@dataclass(frozen=True)
class MeasuredValue:
    """Measured numbers of an action, nats per token; `snapshot_actions.sql` defines each."""

    delta_nll: float
    stderr: float | None
    value_of_detail: float
    priced: float | None
    literal: float | None
    inclusion_probability: float
    estimator: str
    attention_mass: float | None
    information_value: float | None
    gist_value: float | None


@dataclass(frozen=True)
class ActionView:
    """One legal action; `measured` is None where it was not sampled or failed."""

    action: Action
    first_token: int
    end_token: int
    distance_to_cursor: int
    positions: int
    """positions that an expand costs or a collapse frees"""
    measured: MeasuredValue | None
    scores: Mapping[str, float]
    """by scorer, in score units; a collapse has the mean over its entries, as in the allocator"""


@dataclass(frozen=True)
class SpanView:
    """A gist, or the tokens of one block (`level` 0, `index` the block's); `expand` and `collapse` index the
    snapshot's actions. A collapse is shared by all the siblings it would merge."""

    level: int
    index: int
    first_token: int
    end_token: int
    num_entries: int
    text: str
    expand: int | None
    collapse: int | None


@dataclass(frozen=True)
class SnapshotView:
    """A working context at one cursor with its labels and scores."""

    snapshot_id: str
    run_id: str
    document_id: str
    source: str
    split: str
    policy: str
    lod_map: LODMap
    protected_tail: int
    """tokens at the end that never collapse"""
    horizon: int
    baseline_nll: float | None
    edit_price: float | None
    """shadow price times the positions of one edit, nats per token; None where no price balances"""
    model_hash: str
    tokenizer_hash: str
    gist_hash: str
    dtype: str
    semantics: Semantics
    spans: tuple[SpanView, ...]
    actions: tuple[ActionView, ...]
    text_problem: str
    """reason for missing text; empty where there is text"""

    @property
    def provenance(self) -> Provenance:
        tree = self.lod_map.tree
        return Provenance(
            self.model_hash, self.tokenizer_hash, self.gist_hash, self.dtype, tree.block_size, tree.max_level,
            semantics=self.semantics, gist_positions=tree.positions_of(1),
        )  # fmt: skip

    @property
    def scorers(self) -> list[str]:
        """Names of the checkpoints that scored it."""
        return list(self.actions[0].scores) if self.actions else []

    def text_of(self, action: ActionView) -> str:
        """The text of the spans that an action affects."""
        return "".join(
            span.text
            for span in self.spans
            if span.first_token < action.end_token and action.first_token < span.end_token
        )

    def with_scores(self, scores_N: Mapping[str, npt.NDArray[np.float64]]) -> "SnapshotView":
        """The snapshot with these scores by scorer, one per entry of the map [N]."""
        of_actions = {name: action_scores(self, values) for name, values in scores_N.items()}
        return replace(
            self,
            actions=tuple(
                replace(found, scores={name: values[i] for name, values in of_actions.items()})
                for i, found in enumerate(self.actions)
            ),
        )


def action_scores(snapshot: SnapshotView, scores_N: npt.NDArray[np.float64]) -> list[float]:
    """One score per action of the snapshot: the mean over the nodes that it replaces."""
    nodes, tree = snapshot.lod_map.nodes, snapshot.lod_map.tree
    scores = []
    for found in snapshot.actions:
        first = nodes.index_of_token(found.first_token)
        num_entries = len(found.action.entries(tree))
        scores.append(float(scores_N[first : first + num_entries].mean()))
    return scores


def find_snapshots(connection: duckdb.DuckDBPyConnection, name: str) -> list[str]:
    """Ids of the snapshots that `name` denotes.

    `name` is an id, or the beginning of a trajectory's id, with or without a colon and a cursor. Raises
    InputError when there is no such snapshot, or more than one such trajectory.
    """
    start, colon, cursor = name.partition(":")
    rows = fetch_rows(
        connection,
        "select trajectory_id, unnest(cursors) as cursor from trajectories "
        "where starts_with(trajectory_id, ?) order by all limit 100000",
        start,
    )
    trajectories = sorted({row["trajectory_id"] for row in rows})
    if start in trajectories:
        trajectories = [start]
    if len(trajectories) > 1:
        shown = ", ".join(trajectories[:3])
        raise InputError(
            f"{name!r} is the beginning of several trajectories ({shown}, …): give more of the id"
        )
    cursors = [str(row["cursor"]) for row in rows if [row["trajectory_id"]] == trajectories]
    if not start or not cursors or (colon and cursor not in cursors):
        there = f"; the cursors of {trajectories[0]} are {', '.join(cursors)}" if cursors and start else ""
        raise InputError(
            f"no snapshot {name!r} in this version of the store{there}. "
            'Ids: mctrace sql "select snapshot_id, source from snapshots limit 10"'
        )
    return [f"{trajectories[0]}:{found}" for found in ([cursor] if colon else cursors)]


def read_snapshots(
    connection: duckdb.DuckDBPyConnection,
    version: StoreVersion,
    snapshot_ids: Sequence[str],
    *,
    with_text: bool,
) -> list[SnapshotView]:
    """The snapshots in that order, unscored.

    Text that the store cannot give costs the text alone, and `text_problem` says why.
    """
    trajectories = sorted({snapshot_id.partition(":")[0] for snapshot_id in snapshot_ids})
    with narrowed(connection, "trajectory_id", trajectories):
        rows = {row["snapshot_id"]: row for row in run_analysis(connection, "snapshot_row")}
        labels: dict[str, list[Row]] = defaultdict(list)
        for label in run_analysis(connection, "snapshot_actions"):
            labels[label["snapshot_id"]].append(label)
    texts = Detokenizer(connection) if with_text else None
    return [_view(rows[one], labels[one], version, texts) for one in snapshot_ids]


def _view(
    row: Row, labels: list[Row], version: StoreVersion, token_texts: Detokenizer | None
) -> SnapshotView:
    tree = tree_of(row["block_size"], row["max_level"], row["absence"], row["gist_positions"])
    levels = np.asarray(row["levels"], dtype=np.uint8)
    lod_map = LODMap(tree, row["start"], row["first_cursor"], levels).extended(row["cursor"])
    actions = _actions(lod_map, row["protected_tail"], labels)
    bounds = _span_bounds(lod_map)
    texts, problem = _texts(row, version, token_texts, [(first, end) for _, _, first, end in bounds])
    index_of = {found.action: i for i, found in enumerate(actions)}
    spans = tuple(
        SpanView(
            level=level,
            index=index,
            first_token=first,
            end_token=end,
            num_entries={0: end - first, ABSENT: 0}.get(level, 1),
            text=text,
            expand=_expand_of(index_of, level, index),
            collapse=_collapse_of(index_of, tree, level, index),
        )
        for (level, index, first, end), text in zip(bounds, texts, strict=True)
    )
    return SnapshotView(
        snapshot_id=row["snapshot_id"],
        run_id=row["run_id"],
        document_id=row["document_id"],
        source=row["source"] or row["document_id"],
        split=row["split"] or "",
        policy=row["policy"],
        lod_map=lod_map,
        protected_tail=row["protected_tail"],
        horizon=row["horizon"],
        baseline_nll=row["baseline_nll"],
        edit_price=labels[0]["edit_price"] if labels else None,
        model_hash=row["model_hash"],
        tokenizer_hash=row["tokenizer_hash"],
        gist_hash=row["gist_hash"],
        dtype=row["dtype"],
        semantics=row["semantics"],
        spans=spans,
        actions=actions,
        text_problem=problem,
    )


def _collapse_of(index_of: Mapping[Action, int], tree: TreeShape, level: int, index: int) -> int | None:
    """The action that shows less of a span: a block's tokens become its gist, siblings their parent; where
    they cannot, they are dropped."""
    if level == ABSENT:
        return None
    parent = Node(1, index) if level == 0 else Node(level + 1, index // tree.block_size)
    found = index_of.get(Action("collapse", parent))
    return index_of.get(Action("drop", Node(max(level, 1), index), level)) if found is None else found


def _expand_of(index_of: Mapping[Action, int], level: int, index: int) -> int | None:
    """The action that shows more of a span: an absent block is inserted, a gist expanded."""
    if level != ABSENT:
        return index_of.get(Action("expand", Node(level, index))) if level else None
    inserts = (index_of.get(Action("insert", Node(1, index), entry_level)) for entry_level in (0, 1))
    return next((found for found in inserts if found is not None), None)


def _span_bounds(lod_map: LODMap) -> list[tuple[int, int, int, int]]:
    """(level, index, first token, end token) of every span in order; a block's tokens are one span."""
    entries, size = lod_map.nodes, lod_map.tree.block_size
    block_N = entries.first_token_N // size
    is_first_N = np.append(True, (entries.level_N[1:] > 0) | (block_N[1:] != block_N[:-1]))
    first_N = np.flatnonzero(is_first_N)
    ends = [*entries.first_token_N[first_N[1:]].tolist(), lod_map.cursor]
    return [
        (level, block if level == 0 else index, first, end)
        for level, index, block, first, end in zip(
            entries.level_N[first_N].tolist(),
            entries.index_N[first_N].tolist(),
            block_N[first_N].tolist(),
            entries.first_token_N[first_N].tolist(),
            ends,
            strict=True,
        )
    ]


def _actions(lod_map: LODMap, protected_tail: int, labels: list[Row]) -> tuple[ActionView, ...]:
    measured = {
        Action(row["action"], Node(row["node_level"], row["node_index"]), row["entry_level"]): MeasuredValue(
            **{name: row[name] for name in MeasuredValue.__dataclass_fields__}
        )
        for row in labels
    }
    views = []
    for action in legal_actions(lod_map, protected_tail):
        first, end = lod_map.tree.span(action.node)
        positions = abs(action.change_in_positions(lod_map.tree))
        distance = lod_map.cursor - end
        views.append(ActionView(action, first, end, distance, positions, measured.get(action), {}))
    return tuple(views)


def _texts(
    row: Row, version: StoreVersion, token_texts: Detokenizer | None, bounds: list[tuple[int, int]]
) -> tuple[list[str], str]:
    """The text of each span and an empty string; or no texts and the reason."""
    if token_texts is None:
        return [""] * len(bounds), ""
    if not row["arrays"]:
        return [""] * len(bounds), "the store does not hold this document's tokens"
    try:
        place = DocumentPlace.of(row)
        (tokens_T,) = read_document(ArrayFolder.of(version, place.folder), place, 0)
        start, ends = bounds[0][0], [end - bounds[0][0] for _, end in bounds]
        texts = token_texts.spans(row["tokenizer_hash"], tokens_T[start : row["cursor"]].tolist(), ends)
    except StoreError as error:
        return [""] * len(bounds), str(error)
    return texts, ""
