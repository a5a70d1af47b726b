"""Provenance of labels: what they depend on, and which may be mixed in training."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Literal, get_args

from mctrace.context.tree import Absence, TreeShape, tree_of
from mctrace.errors import InputError

Mix = Literal["models", "gists", "dtypes"]
"""Differences that the labels of one training run may have on request."""

Semantics = Literal["re_encoded", "kept"]
"""What an edit does to what was read before: later tokens are read again behind it (re_encoded), or stay as
they were read (kept). Labels of the two never compare."""

_MIXED_COLUMNS: dict[Mix, set[str]] = {
    "models": {"model_hash", "tokenizer_hash"},
    "gists": {"gist_hash"},
    "dtypes": {"dtype"},
}

_BETWEEN = "+"


@dataclass(frozen=True)
class Provenance:
    """Everything that a label depends on besides its document and map."""

    model_hash: str
    tokenizer_hash: str
    gist_hash: str
    dtype: str
    block_size: int
    max_level: int
    absence: Absence = field(default="off", compare=False)
    """what maps and actions are planned with; gists and labels do not depend on it, so it is not compared"""
    semantics: Semantics = field(default="re_encoded", compare=False)
    """follows from the gists, and so from `gist_hash`, which is compared"""
    gist_positions: int = field(default=1, compare=False)
    """positions that a gist takes; follows from the gists too"""

    @cached_property
    def tree(self) -> TreeShape:
        return tree_of(self.block_size, self.max_level, self.absence, self.gist_positions)

    @property
    def columns(self) -> dict[str, str | int]:
        """What a label depends on, by the names of the store's columns."""
        found = {name: getattr(self, name) for name in _compared()}
        is_plain = self.semantics == "re_encoded" and self.gist_positions == 1
        return found if is_plain else {**found, **self.reading_columns}

    @property
    def reading_columns(self) -> dict[str, str | int]:
        """The columns that say how contexts were read."""
        return {"semantics": self.semantics, "gist_positions": self.gist_positions}

    def __str__(self) -> str:
        return (
            f"model {self.model_hash[:8]} gists {short_gists(self.gist_hash)} {self.dtype} "
            f"K={self.block_size} max_level={self.max_level}"
        )

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Provenance":
        """From a row that has all its columns; one of a document, on whose gists the reading of contexts has
        no bearing, says nothing of that."""
        return cls(
            **{name: row[name] for name in _compared()},
            semantics=row.get("semantics") or "re_encoded",
            gist_positions=row.get("gist_positions") or 1,
        )

    @classmethod
    def of_all(cls, kinds: Sequence["Provenance"]) -> "Provenance":
        """Provenance of a mixture: values that differ are joined by + (see `kinds_in`)."""
        values = {name: [getattr(kind, name) for kind in kinds] for name in _compared()}
        joined: dict[str, Any] = {
            name: found[0] if len(set(found)) == 1 else _BETWEEN.join(found) for name, found in values.items()
        }
        # Kinds that differ in these are no mixture that there could be.
        return cls(**joined, semantics=kinds[0].semantics, gist_positions=kinds[0].gist_positions)


def short_gists(gist_hash: str) -> str:
    """The first digits of a GistNet's hash, behind the name that it may have."""
    name, dash, digits = gist_hash.rpartition("-")
    return f"{name}{dash}{digits[:8]}"


def _compared() -> list[str]:
    return [f.name for f in fields(Provenance) if f.compare]


def refuse_mixture(kinds: Collection[Provenance], mix: Collection[Mix], where: str) -> None:
    """Raises InputError when the labels found `where` are of several `kinds` and `mix` does not allow it."""
    if not kinds:
        raise InputError(f"{where} has no labels: run 'mctrace collect'")
    differing = {name for name in _compared() if len({getattr(kind, name) for kind in kinds}) > 1}
    found = "; ".join(map(str, kinds))
    needed = [name for name in get_args(Mix) if _MIXED_COLUMNS[name] & differing]
    if len({kind.semantics for kind in kinds}) > 1:
        raise InputError(
            f"{where} has labels of contexts that were re-encoded after an edit and of such that stayed as "
            f'they were read ({found}), which never go together: choose one with --where "semantics = '
            "'kept'\" or 're_encoded', or name a version that has one"
        )
    if differing & {"block_size", "max_level"} or len({kind.gist_positions for kind in kinds}) > 1:
        raise InputError(f"{where} mixes labels of different trees ({found}): train on a store of one tree")
    if not set(needed) <= set(mix):
        flags = " ".join(f"--mix {name}" for name in needed)
        raise InputError(
            f"{where} mixes labels that do not compare ({found}): choose one kind, a version of one or "
            f"--where \"gist_hash = '...'\"; or train on, and judge what was trained on, the mixture: {flags}"
        )


def kinds_in(described: Mapping[str, Any], *columns: str) -> set[tuple[str, ...]]:
    """Values of `columns` in each kind of a stored provenance that `Provenance.of_all` made."""
    values = [str(described.get(column)).split(_BETWEEN) for column in columns]
    num_kinds = max(map(len, values))
    return set(zip(*(found * num_kinds if len(found) == 1 else found for found in values), strict=False))


def mixture_in(described: Mapping[str, Any]) -> tuple[Mix, ...]:
    """Differences between the kinds of a mixture, by the names that request it; empty for one kind."""
    return tuple(
        name
        for name in get_args(Mix)
        if any(len(kinds_in(described, column)) > 1 for column in _MIXED_COLUMNS[name])
    )
