"""Sweep: removes files that no version names, never one that a concurrent commit is about to name.

A part lies in the store before the ledger names it, so a sweep and a commit may meet. Neither locks; each
says what it is about to do before it looks at what the other did:

    sweep    lists what no version ever named; writes a notice of it into sweeps/; reads the ledger AGAIN and
             spares what is named by now; removes the rest
    commit   looks whether every file of its parts is there; appends to the ledger; reads the notices AGAIN,
             and takes its version back where one names a part of it

Whichever looks last sees the other. Where the commit's row came before the sweep's second look, the sweep
spares the part; where it came after, the notice was there before the row, and the commit finds it. A notice
is kept for a day, so that it outlives every commit that had looked before it; one of a sweep that was killed
does no harm, since nothing ever takes a folder's name again.

Ages are held against the clock that dates the files, which need not be this machine's.
"""

import json
import math
import secrets
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

from mctrace.datasets.store.ledger_chain import FOLDER as LEDGER
from mctrace.datasets.store.ledger_chain import HEAD_FOLDER, LOG_FOLDER
from mctrace.datasets.store.location import Location
from mctrace.datasets.store.parts import STAGING
from mctrace.datasets.store.store import Store
from mctrace.datasets.store.sweep_notices import FOLDER
from mctrace.errors import InputError, StoreError

GRACE = timedelta(hours=24)
"""Files younger than this may belong to a run that has not committed them yet."""

FRESH = timedelta(minutes=15)
"""A shorter grace than this is refused while any unnamed file is younger: a run may be at work."""


@dataclass(frozen=True)
class _Unnamed:
    """A folder or file that no version names."""

    place: str
    modified: float
    """seconds since the epoch, of the newest file in it"""
    is_folder: bool = True


def sweep(store: Store, grace: timedelta = GRACE) -> list[str]:
    """Removes what no version names and is older than `grace`; returns it.

    Raises InputError, with nothing removed, when `grace` is short and something is fresh; StoreError when the
    store cannot be read or written to, or something cannot be removed.
    """
    location, notice = store.location, f"{FOLDER}/{secrets.token_hex(8)}.json"
    try:
        location.write_bytes(notice, b"[]")
        due: list[_Unnamed] = []
        try:
            # Of the clock that dates the files.
            notices = location.modified_times(FOLDER)
            now = notices[notice]
            unnamed = list(_unnamed(store))
            if grace < FRESH:
                _refuse_fresh(location, unnamed, now)
            due = [one for one in unnamed if now - one.modified > grace.total_seconds()]
            if due:
                location.write_bytes(notice, json.dumps([one.place for one in due]).encode())
        finally:
            if not due:
                location.remove_file(notice)
        for place, modified in notices.items():
            if now - modified > GRACE.total_seconds():
                location.remove_file(place)
        named = _named(store)
        return _remove(location, [one for one in due if one.place not in named])
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(f"cannot sweep {location.uri}: {error}") from error


def _named(store: Store) -> set[str]:
    return store.ledger.folders_ever_named() | store.ledger.files_ever_named()


def _unnamed(store: Store) -> Iterator[_Unnamed]:
    """Folders of parts and scratch, and files of commits that were never made."""
    # Files first: what is listed after them and named by then is spared.
    modified: dict[str, float] = defaultdict(float)
    for top, depth in (("parts", 4), (STAGING, 2)):
        for place, at in store.location.modified_times(top).items():
            steps = place.split("/")
            if len(steps) >= depth:
                folder = "/".join(steps[:depth])
                modified[folder] = max(modified[folder], at)
    beside_log = store.location.modified_times(LEDGER).items()
    files = {place: at for place, at in beside_log if place.count("/") == 1 and place != LOG_FOLDER}
    heads = store.location.modified_times(HEAD_FOLDER).items()
    files |= {place: at for place, at in heads if place.startswith(f"{HEAD_FOLDER}/.")}
    named = _named(store)
    yield from (_Unnamed(folder, at) for folder, at in modified.items() if folder not in named)
    yield from (_Unnamed(file, at, is_folder=False) for file, at in files.items() if file not in named)


def _refuse_fresh(location: Location, unnamed: Sequence[_Unnamed], now: float) -> None:
    newest = max(unnamed, key=lambda one: one.modified, default=None)
    if newest is None or now - newest.modified >= FRESH.total_seconds():
        return
    age = now - newest.modified
    when = f"{age:.0f} s ago" if age >= 0 else f"{-age:.0f} s in the future, says its date"
    minutes = math.ceil((FRESH.total_seconds() - age) / 60)
    raise InputError(
        f"nothing was swept: {location.uri}/{newest.place} was written {when} and no version names it: a run "
        f"may be about to commit it; wait {minutes} minutes without a run, or sweep with --grace "
        f"{FRESH.total_seconds() / 3600:g} or more"
    )


def _remove(location: Location, due: Sequence[_Unnamed]) -> list[str]:
    failed: list[str] = []
    for one in due:
        try:
            location.remove_folder(one.place) if one.is_folder else location.remove_file(one.place)
        except OSError as error:
            failed.append(f"{location.uri}/{one.place}: {error.strerror or error}")
    if failed:
        raise StoreError(f"{len(failed)} of {len(due)} folders and files cannot be removed: {failed[0]}")
    return [one.place for one in due]
