"""A cluster without workers that starts them when a run asks: Ray's autoscaler over its fake node provider,
whose nodes are raylets on this machine. What KubeRay does with pods goes through the same requests."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.cli.flags import set_flags
from tests.collect.runs import tiny_run
from tests.datasets.s3_server import free_ports

pytestmark = pytest.mark.slow

CONFIG = {
    "cluster_name": "from-zero",
    "max_workers": 2,
    "upscaling_speed": 1.0,
    "idle_timeout_minutes": 1.0,
    "available_node_types": {
        "ray.head.default": {"resources": {}, "node_config": {}, "max_workers": 0},
        "worker": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2},
    },
    "head_node_type": "ray.head.default",
    **{key: {} for key in ("auth", "docker", "file_mounts")},
    **{f"{key}_commands": [] for key in ("initialization", "setup", "head_setup", "worker_setup")},
    **{f"{key}_start_ray_commands": [] for key in ("head", "worker")},
    **{key: [] for key in ("cluster_synced_files", "rsync_exclude", "rsync_filter")},
    "file_mounts_sync_continuously": False,
}
ENVIRONMENT = {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1", "RAY_AUTH_MODE": "disabled"}


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Where the head listens. Ray's own AutoscalingCluster would stop every Ray of this machine first."""
    (port,) = free_ports(1)
    # Short, since sockets lie in it; and not Ray's own, where it would note this cluster as everybody's.
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    config, log = tmp_path / "autoscaler.json", tmp_path / "ray.log"
    provider = {"type": "fake_multinode", "gcs_address": f"127.0.0.1:{port}"}
    config.write_text(json.dumps({**CONFIG, "provider": provider}))
    with log.open("wb") as output:
        head = subprocess.Popen(
            [Path(sys.executable).with_name("ray"), "start", "--head", "--block",
             "--node-ip-address=127.0.0.1", f"--port={port}", "--num-cpus=0", "--include-dashboard=false",
             f"--autoscaling-config={config}", f"--temp-dir={folder}"],
            env={**os.environ, **ENVIRONMENT}, stdout=output, stderr=output,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while "Ray runtime started" not in log.read_text():
            assert head.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield f"127.0.0.1:{port}"
    finally:
        family = psutil.Process(head.pid).children(recursive=True)
        head.kill()
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(family, timeout=30)
        head.wait()
        shutil.rmtree(folder, ignore_errors=True)


def collect_on(
    address: str, run, settings: dict[str, Any], **environment: str
) -> subprocess.CompletedProcess:
    """`mctrace collect` with two actors on the cluster at `address`, in a process of its own.

    Ray sets RAY_AUTH_MODE=token in a process that had a local Ray before, as pytest's may have had.
    """
    there = {"store.uri": run.store.location.uri, "ray.address": address, "ray.start_timeout": 200}
    return subprocess.run(
        [Path(sys.executable).with_name("mctrace"), "collect", "--actors", "2", "--json",
         *set_flags({**settings, **there})],
        capture_output=True, text=True, timeout=400, check=False, env={**os.environ, **environment},
    )  # fmt: skip


def test_a_cluster_of_no_workers_starts_one_for_each_actor(address, tiny_settings, tmp_path):
    settings = {**tiny_settings, "corpus.limit": 4}
    alone = tiny_run(settings, tmp_path / "alone")
    alone.measure()
    run = tiny_run(settings, tmp_path / "cluster")
    done = collect_on(address, run, settings, RAY_AUTH_MODE="disabled")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "the cluster has 0 free" in done.stderr or "no node" in done.stderr, done.stderr[-2000:]
    assert run.plan.missing(run.store) == []
    assert run.labels() == pytest.approx(alone.labels(), abs=1e-5)


def test_tokens_that_the_cluster_does_not_know_are_named_as_the_cause(address, tiny_settings, tmp_path):
    settings = {**tiny_settings, "corpus.limit": 3}
    run = tiny_run(settings, tmp_path)
    done = collect_on(address, run, settings, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="0" * 32)
    assert done.returncode == 1, done.stderr[-2000:]
    assert "RAY_AUTH_MODE that is set here (token)" in done.stderr, done.stderr[-2000:]
