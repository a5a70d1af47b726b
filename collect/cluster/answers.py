"""Answers of actors: the result behind a reference, or the error in one line, and what a death says."""

from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayTaskError

from mctrace.collect.cluster.faults import missing_keys
from mctrace.context.shortage import shortage
from mctrace.errors import CollectError, MctraceError


def get(reference: Any) -> Any:
    """The result behind a reference, with the worker's own error as if it had been raised here."""
    try:
        return ray.get(reference)
    except RayTaskError as error:
        raise as_raised_here(error.cause or error) from None


def as_raised_here(error: BaseException, where: object = "a worker") -> BaseException:
    """The error to raise in the driver for one that was raised `where`."""
    if remedy := missing_keys(error):
        return CollectError(f"{where}: {remedy}")
    if isinstance(error, MctraceError):
        return error
    if ran_out := shortage(error):
        return CollectError(f"{where} {ran_out}; what was committed stays")
    return error


def lost_its_node(error: RayActorError) -> bool:
    """True when an actor died of no fault of its own: with its node, preempted, or out of reach."""
    said = str(error)
    return (
        isinstance(error, ActorUnavailableError)
        or error.preempted
        or "node has died" in said
        or "never ran" in said
    )


def cause_of_death(error: BaseException) -> str:
    """What Ray says of a death in one line, without the actor's name and number."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith("\t")]
    return (lines[-1] if lines else type(error).__name__)[:200]
