"""Documents made ahead by tasks of a Ray cluster, spread over its nodes.

The tokeniser and the settings go to every process once. Tasks ask for no CPU of their own: actors that
measure may hold all of them, and how many tasks run at once is limited here.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import ray
from ray.exceptions import RayTaskError

from mctrace.collect.corpus.lazy_texts import SourceText
from mctrace.collect.planning.plan_stream import PlannedBatch, Planner
from mctrace.errors import MctraceError

_LEAST_AHEAD = 4
"""Batches under way or waiting to be measured, on the smallest cluster."""


class DocumentTasks:
    """A stage of Ray tasks, `ahead` of them at once or waiting to be taken.

    Unset, twice as many as the cluster has CPUs.
    """

    def __init__(self, ahead: int | None = None) -> None:
        self._ahead = ahead

    def map(self, planner: Planner, batches: Iterable[Sequence[SourceText]]) -> Iterator[PlannedBatch]:
        """Results in the order of the batches; an error of the planner is raised in its result's place."""
        ahead = self._ahead or max(_LEAST_AHEAD, 2 * int(ray.cluster_resources().get("CPU", 0)))
        shared = ray.put(planner)
        pending, under_way = iter(batches), deque[ray.ObjectRef]()
        try:
            while True:
                while len(under_way) < ahead and (batch := next(pending, None)) is not None:
                    # In a list, so that the task takes the reference and a process fetches the planner once.
                    under_way.append(_make.remote([shared], batch))
                if not under_way:
                    return
                yield _result(under_way.popleft())
        finally:
            for reference in under_way:
                ray.cancel(reference)


_PLANNERS: dict[Any, Planner] = {}
"""of this process, by reference; one run's at a time"""


@ray.remote(num_cpus=0, scheduling_strategy="SPREAD")  # type: ignore[untyped-decorator]
def _make(shared: list[ray.ObjectRef], batch: Sequence[SourceText]) -> PlannedBatch:
    (reference,) = shared
    if reference not in _PLANNERS:
        _PLANNERS.clear()
        _PLANNERS[reference] = ray.get(reference)
    return _PLANNERS[reference](batch)


def _result(reference: ray.ObjectRef) -> PlannedBatch:
    try:
        batch: PlannedBatch = ray.get(reference)
        return batch
    except RayTaskError as error:
        if isinstance(error.cause, MctraceError):
            raise error.cause from None
        raise
