"""Faults while an item is measured, and whose they are: item, device, infrastructure or run.

An item's fault is tried again and then quarantined. Infrastructure recovers, so it is waited for. What no
waiting mends (a full disk, missing keys) ends the run at once.
"""

import logging
import re
import time
from collections.abc import Callable
from enum import Enum
from typing import TypeVar

from mctrace.context.shortage import shortage
from mctrace.errors import StoreError

_log = logging.getLogger(__name__)
T = TypeVar("T")


class Fault(Enum):
    """Whose fault an error is."""

    ITEM = "item"
    """tried again elsewhere, then quarantined"""
    DEVICE = "device"
    """a device that may be unusable from now on: another process tries the item"""
    INFRASTRUCTURE = "infrastructure"
    """object storage, network, shared disks: tried again after a pause"""
    RUN = "run"
    """every other item would meet it too"""


MOST_FAULTS = 8
"""Times in a row that infrastructure may fail one item before the run ends: four minutes of pauses."""
_LONGEST_PAUSE = 60.0
_DEVICE_WORDS = re.compile(
    r"CUDA error|CUDA driver|cuda runtime|cublas|cudnn|cusolver|NCCL|HIP error", re.IGNORECASE
)
_LASTING_WORDS = re.compile(
    r"permission denied|read-only file system|not a directory|access ?denied|invalidaccesskeyid|forbidden|"
    r"signaturedoesnotmatch|expiredtoken|nosuchbucket|bucket does not exist|(locate|no|partial) credentials|"
    r"no such file or directory",
    re.IGNORECASE,
)  # fmt: skip
_CREDENTIALS = re.compile(
    r"(locate|no|partial) ?credentials|invalidaccesskeyid|signaturedoesnotmatch|expiredtoken", re.IGNORECASE
)
_NETWORK_LIBRARIES = (
    "botocore", "aiobotocore", "aiohttp", "urllib3", "requests", "httpx", "httpcore", "s3fs", "fsspec",
    "gcsfs", "adlfs", "azure", "google", "grpc",
)  # fmt: skip


def classify(error: BaseException) -> Fault:
    """Whose fault `error` is, which a worker met while it measured an item."""
    said = str(error)
    if ran_out := shortage(error):
        return Fault.ITEM if "out of memory" in ran_out else Fault.RUN
    if isinstance(error, RuntimeError) and _DEVICE_WORDS.search(said):
        return Fault.DEVICE
    is_network = type(error).__module__.split(".")[0] in _NETWORK_LIBRARIES
    if is_network or isinstance(error, OSError):  # a StoreError too
        return Fault.RUN if _LASTING_WORDS.search(said) else Fault.INFRASTRUCTURE
    return Fault.ITEM


def missing_keys(error: BaseException) -> str | None:
    """The remedy in one line where a worker lacks the keys of an object store; None for another error."""
    if not _CREDENTIALS.search(f"{type(error).__name__} {error}"):
        return None
    return (
        "the object store refuses this node's keys or it has none: set AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY (and AWS_ENDPOINT_URL, AWS_REGION) where `ray start` runs on every node, or "
        "give the nodes a role"
    )


def pause_after(num_faults: int) -> float:
    """Seconds to wait after so many faults of the infrastructure in a row: 1, 2, 4 and so on."""
    return min(_LONGEST_PAUSE, 2.0 ** (num_faults - 1))


def patiently(step: Callable[[], T]) -> T:
    """The result of a step that may be taken again: after a pause where infrastructure fails.

    Raises what the step raises for the `MOST_FAULTS`th time in a row, or at once where no waiting mends it.
    """
    num_faults = 0
    while True:
        try:
            return step()
        except Exception as error:
            num_faults += 1
            if classify(error) is not Fault.INFRASTRUCTURE or num_faults > MOST_FAULTS:
                raise
            pause = pause_after(num_faults)
            _log.warning("%s; tried again in %.0f s", reason_of(error), pause)
            time.sleep(pause)


def reason_of(error: BaseException) -> str:
    """An error in one line, with its class where it is none of ours."""
    said = " ".join(str(error).split())
    return said if isinstance(error, StoreError) else f"{type(error).__name__}: {said}".rstrip(": ")
