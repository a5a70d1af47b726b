"""Verification of the ledger's own files against each other: each version's log entry and the rows it added.

Delta keeps no checksum of its log; ours is a chain (`ledger_chain`). Entries of before that are not part of
it name files by the hash of their content, count their rows and say what they are, so that little can change
in them without contradicting those.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mctrace.datasets.store.ledger import ADDED, RUN_IDS, Ledger
from mctrace.datasets.store.ledger_chain import FOLDER, LOG_FOLDER, Log, chain_problems, log_entry
from mctrace.datasets.store.ledger_rows import CommittedPart
from mctrace.errors import StoreError


def verify_ledger(ledger: Ledger, version: int) -> Iterator[tuple[str, str]]:
    """(place, what is wrong) for the log, its head and checkpoints, and for the rows that the entries up to
    `version` lead to; one problem a file of the log.
    """
    live: dict[str, int] = {}
    log = Log.read(ledger.location)
    wrong = dict(reversed(list(chain_problems(ledger.location, log))))
    yield from wrong.items()
    whole = True
    for number in range(version + 1):
        place = log_entry(number)
        if number not in log.contents:
            whole = False
            if place not in wrong:
                yield place, "is missing"
            continue
        try:
            actions = [json.loads(line) for line in log.contents[number].splitlines()]
            problems = list(_contradictions(ledger, number, actions, live))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            whole = False
            if place not in wrong:
                yield place, f"is no log entry: {type(error).__name__}: {error}"
            continue
        yield from ((where, what) for where, what in problems if where not in wrong)
    try:
        found = dict(ledger.files(version))
    except StoreError as error:
        if not wrong:
            yield FOLDER, str(error)
        return
    if whole and found != live and not wrong:
        yield LOG_FOLDER, "names other files in its entries than in its checkpoint"


def _contradictions(
    ledger: Ledger, number: int, actions: Sequence[Mapping[str, Any]], live: dict[str, int]
) -> Iterator[tuple[str, str]]:
    """What an entry says that its files do not; brings the list of `live` files up to it."""
    by_name = {name: [action[name] for action in actions if name in action] for name in ("add", "remove")}
    infos = [action["commitInfo"] for action in actions if "commitInfo" in action]
    # In older ledgers two drivers may both have created the table, as versions 0 and 1.
    if not infos or not any("add" in action or "metaData" in action for action in actions):
        yield log_entry(number), "is cut short"
        return
    rows: list[CommittedPart] = []
    for add in by_name["add"]:
        live[add["path"]] = add["size"]
        try:
            found = ledger.table.read(add["path"], add["size"])
        except StoreError as error:
            yield f"{FOLDER}/{add['path']}", str(error)
            return
        if json.loads(add["stats"])["numRecords"] != len(found):
            yield log_entry(number), f"counts other rows than the {len(found)} of {add['path']}"
        rows += found
    for remove in by_name["remove"]:
        del live[remove["path"]]
    info = infos[0]
    if ADDED in info and not by_name["remove"]:
        if info[ADDED] != dict(Counter(row.part.kind for row in rows)):
            yield log_entry(number), f"says it added {info[ADDED]}, which its rows do not"
        if set(info[RUN_IDS].split()) != {row.part.run_id for row in rows}:
            yield log_entry(number), f"says it is of {info[RUN_IDS]}, its rows of other runs"
