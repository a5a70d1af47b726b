"""Whose fault an error is decides what follows: another try, quarantine, a pause, or the end of the run."""

import errno
import os

import pytest

from mctrace.collect.cluster.faults import Fault, classify, missing_keys, pause_after, reason_of
from mctrace.errors import StoreError


class NoCredentialsError(Exception):
    """As botocore raises it."""


class EndpointConnectionError(Exception):
    """As botocore raises it."""


NoCredentialsError.__module__ = EndpointConnectionError.__module__ = "botocore.exceptions"

ERRORS = {
    Fault.ITEM: [
        ValueError("index 7 is out of bounds"),
        RuntimeError("shape mismatch"),
        MemoryError(),
        RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
    ],
    Fault.DEVICE: [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("cuBLAS error: CUBLAS_STATUS_EXECUTION_FAILED"),
    ],
    Fault.INFRASTRUCTURE: [
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
        TimeoutError("timed out"),
        OSError(errno.EIO, os.strerror(errno.EIO)),
        StoreError("cannot write to the store s3://bucket: Service Unavailable"),
        EndpointConnectionError('Could not connect to the endpoint URL: "http://store:9000/bucket"'),
    ],
    Fault.RUN: [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        PermissionError(errno.EACCES, os.strerror(errno.EACCES)),
        StoreError("cannot write to the store /data: Read-only file system"),
        NoCredentialsError("Unable to locate credentials"),
        OSError(errno.EMFILE, "Too many open files"),
    ],
}


@pytest.mark.parametrize(("fault", "error"), [(f, e) for f, errors in ERRORS.items() for e in errors])
def test_errors_by_whose_they_are(fault, error):
    assert classify(error) is fault


def test_missing_keys_are_told_from_other_errors_and_say_what_to_set():
    assert "AWS_ACCESS_KEY_ID" in str(missing_keys(NoCredentialsError("Unable to locate credentials")))
    assert missing_keys(EndpointConnectionError("Could not connect")) is None


def test_pauses_double_up_to_a_minute():
    assert [pause_after(n) for n in (1, 2, 3, 7, 30)] == [1, 2, 4, 60, 60]


def test_a_reason_is_one_line():
    assert reason_of(ValueError("first\nsecond")) == "ValueError: first second"
    assert reason_of(KeyError()) == "KeyError"
