"""Documents made ahead in a thread of this process, where there is no cluster to make them.

Tokenisers and numpy release the interpreter's lock, and a base model's passes do, so both get on.
"""

import queue
import threading
from collections.abc import Iterable, Iterator, Sequence

from mctrace.collect.corpus.lazy_texts import SourceText
from mctrace.collect.planning.plan_stream import PlannedBatch, Planner

_AHEAD = 4
"""Batches that wait to be measured."""


class DocumentThread:
    """A stage of one thread, which stops where nobody takes its batches any longer."""

    def map(self, planner: Planner, batches: Iterable[Sequence[SourceText]]) -> Iterator[PlannedBatch]:
        """Results in the order of the batches; an error of the planner is raised in its result's place."""
        made: queue.Queue[PlannedBatch | BaseException | None] = queue.Queue(_AHEAD)
        stopped = threading.Event()

        def hand_over(result: PlannedBatch | BaseException | None) -> None:
            while not stopped.is_set():
                try:
                    made.put(result, timeout=0.1)
                    return
                except queue.Full:
                    continue

        def work() -> None:
            try:
                for batch in batches:
                    if stopped.is_set():
                        return
                    hand_over(planner(batch))
                hand_over(None)
            except BaseException as error:
                hand_over(error)

        thread = threading.Thread(target=work, name="documents", daemon=True)
        thread.start()
        try:
            while (result := made.get()) is not None:
                if isinstance(result, BaseException):
                    raise result
                yield result
        finally:
            stopped.set()
            thread.join()
