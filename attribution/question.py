"""What `attribute` can be asked, checked before any model is loaded."""

from typing import Literal, get_args

from mctrace.errors import ConfigError, InputError

UnitKind = Literal["block", "sentence", "line", "token", "paragraph"]
Against = Literal["drop", "gist"]
EstimatorName = Literal["exact", "gradient"]


def check_question(text: str, target: str | None, unit: str | None, against: str, estimator: str) -> str:
    """The unit that is asked for, its default filled in; needs no model. Raises InputError or ConfigError."""
    if not text.strip():
        raise InputError("the text is empty: give at least two sentences, or a target")
    if target is not None and not target.strip():
        raise InputError("the target is empty: give the continuation whose loss counts, or no target at all")
    kind = unit or ("block" if against == "gist" else "sentence")
    for what, given, choices in (
        ("counterfactual", against, get_args(Against)),
        ("estimator", estimator, get_args(EstimatorName)),
        ("unit", kind, get_args(UnitKind)),
    ):
        if given not in choices:
            raise ConfigError(f"unknown {what} {given!r}: choose from {', '.join(choices)}")
    if against == "gist" and kind != "block":
        raise ConfigError(f"a {kind} has no gist, only a block has: use the unit block, or drop {kind}s")
    return kind
