"""Notices in which sweeps announce what they will remove, as commits read them (protocol: `upkeep/sweep`)."""

import json
from collections.abc import Sequence

from mctrace.datasets.store.location import Location
from mctrace.datasets.store.parts import Part
from mctrace.errors import StoreError

FOLDER = "sweeps"


def noticed(location: Location, parts: Sequence[Part]) -> list[Part]:
    """Those of `parts` whose folder a sweep announced to remove. Raises StoreError for a damaged notice."""
    places: set[str] = set()
    notices = [place for place in location.sizes(FOLDER) if not place.startswith(f"{FOLDER}/.")]
    for notice in notices:
        try:
            places |= set(json.loads(location.read_bytes(notice)))
        except FileNotFoundError:  # a sweep that found nothing to do
            continue
        except (ValueError, TypeError, OSError) as error:
            raise StoreError(f"{location.uri}/{notice} cannot be read: {error}: remove it") from error
    return [part for part in parts if part.folder in places]
