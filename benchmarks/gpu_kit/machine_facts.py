"""What the machine says of itself without a line of CUDA: nvidia-smi, the processor, package versions."""

import os
import platform
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_ASKED = (
    "name", "driver_version", "memory.total", "clocks.sm", "clocks.mem", "clocks.max.sm", "power.limit",
    "temperature.gpu", "compute_cap", "vbios_version",
)  # fmt: skip
_WATCHED = ("clocks.sm", "power.draw", "temperature.gpu", "memory.used")
_PACKAGES = ("torch", "transformers", "safetensors", "numpy", "triton", "tokenizers")


def machine_facts() -> dict[str, Any]:
    """Names, numbers and versions; what cannot be asked is left out."""
    packages = {}
    for name in _PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "gpu": _gpu(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": packages,
        "started": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
    }


def _gpu() -> Mapping[str, str] | None:
    command = ["nvidia-smi", f"--query-gpu={','.join(_ASKED)}", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    first = answer.strip().splitlines()[0].split(",")
    return dict(zip(_ASKED, map(str.strip, first), strict=False))


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


@dataclass
class ClockLog:
    """nvidia-smi's figures every two seconds, in a file."""

    path: Path
    started: float
    interval_s: float = 2.0

    @classmethod
    @contextmanager
    def watching(cls, path: Path) -> Iterator["ClockLog | None"]:
        """None where there is no nvidia-smi."""
        command = [
            "nvidia-smi", f"--query-gpu={','.join(_WATCHED)}", "--format=csv,noheader,nounits", "-l", "2",
        ]  # fmt: skip
        with path.open("wb") as file:
            try:
                process = subprocess.Popen(command, stdout=file, stderr=subprocess.DEVNULL)
            except OSError:
                yield None
                return
            try:
                yield cls(path, time.monotonic())
            finally:
                process.kill()
                process.wait(10)

    def since(self, started: float) -> dict[str, object]:
        """The most of each figure since `started`, by time.monotonic()."""
        lines = self.path.read_text(errors="replace").splitlines()
        rows = []
        for line in lines[int((started - self.started) / self.interval_s) :]:
            try:
                rows.append([float(value) for value in line.split(",")])
            except ValueError:
                continue  # not supported, or cut off
        full = [row for row in rows if len(row) == len(_WATCHED)]
        return {"most": dict(zip(_WATCHED, map(max, zip(*full, strict=True)), strict=True))} if full else {}
