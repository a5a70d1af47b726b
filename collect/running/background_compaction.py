"""Small parts compacted as they come, beside the run: a part a trajectory would be millions of files to open.

Compaction is what `mctrace compact` does, from a handle of its own on the store, as if another process did
it. The parts it stands for stay for the versions that name them.
"""

import logging
import threading

from mctrace.datasets.store.store import Store, open_store
from mctrace.datasets.upkeep.compaction import compact
from mctrace.errors import StoreError
from mctrace.progress import Silent

_log = logging.getLogger(__name__)


class BackgroundCompaction:
    """Compacts in a thread whenever `every` parts were committed since the last time; 0: never."""

    def __init__(self, store: Store, every: int) -> None:
        self._uri, self._every = store.location.uri, every
        self._num_small = 0
        self._thread: threading.Thread | None = None

    def committed(self, num_parts: int) -> None:
        """So many more parts are in the store."""
        self._num_small += num_parts
        if not self._every or self._num_small < self._every or (self._thread and self._thread.is_alive()):
            return
        self._num_small = 0
        # Not a daemon: a run that is interrupted leaves no half of a part behind.
        self._thread = threading.Thread(target=self._compact, name="compaction")
        self._thread.start()

    def close(self) -> None:
        """Wait for a compaction that is under way."""
        if self._thread:
            self._thread.join()

    def _compact(self) -> None:
        try:
            made = compact(open_store(self._uri), Silent())
        except (StoreError, OSError) as error:  # the small parts are there, and the next time comes
            _log.warning("small parts are not compacted yet: %s", error)
        else:
            _log.info("%d small parts compacted into %d", sum(len(one.lineage) for one in made), len(made))
