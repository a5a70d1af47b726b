"""The machine that a benchmark ran on."""

import platform
from pathlib import Path


def processor_name() -> str:
    """Model name of the CPU, as the kernel reports it."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
