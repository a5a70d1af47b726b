"""Damages, ways out of SQL, and bad inputs, which modules of other tests know how to try and to count."""

import random
from pathlib import Path

from tests.chaos.findings import Findings
from tests.cli.bad_inputs import bad_inputs, try_all
from tests.datasets.sql import jail
from tests.datasets.synthetic import synthetic_store
from tests.datasets.upkeep.damages import (
    READ,
    found_by_reading,
    found_by_verify,
    store_with_every_kind,
    try_damages,
)


def damage_files(folder: Path, *, quick: bool, seed: int) -> Findings:
    """Every kind of file damaged in every way: by `verify`, and by whoever reads it, each is named."""
    store = store_with_every_kind(folder / "damages")
    flips, per_kind = (1, 1) if quick else (8, 3)
    tried = [
        try_damages(store, found_by_verify, flips=flips, seed=seed, per_kind=per_kind),
        try_damages(store, found_by_reading, flips=flips, seed=seed, per_kind=per_kind, kinds=READ),
    ]
    unnoticed = [name for one in tried for name in one.unnoticed]
    _show("damage without a word", unnoticed)
    return Findings(damages_tried=sum(len(one.tried) for one in tried), damages_unnoticed=len(unnoticed))


def attempt_jailbreaks(folder: Path) -> Findings:
    """User SQL that would write, or read what is no view."""
    store = synthetic_store(folder / "jail")
    statements = jail.attempts(store)
    escaped = [f"{statement} ({how})" for statement, how in jail.escapes(store, statements)]
    _show("escaped", escaped)
    return Findings(jail_attempts=len(statements), jail_escapes=len(escaped))


def give_bad_inputs(folder: Path, *, quick: bool, seed: int) -> Findings:
    """Bad inputs to every command; a quick run tries one in ten."""
    inputs = bad_inputs()
    if quick:
        inputs = random.Random(seed).sample(inputs, len(inputs) // 10)
    num_tried, unclear = try_all(folder / "bad-inputs", inputs)
    _show("bad input", [f"{one.why}: {one.title}" for one in unclear])
    return Findings(bad_inputs=num_tried, bad_inputs_unclear=len(unclear))


def _show(what: str, found: list[str]) -> None:
    for line in found:
        print(f"{what}: {line}", flush=True)
