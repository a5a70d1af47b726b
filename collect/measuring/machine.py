"""The machine that a number comes from: host, device and versions of the libraries it was computed with."""

import platform
from importlib.metadata import PackageNotFoundError, version

import torch

_PACKAGES = ("mctrace", "torch", "transformers", "ray", "deltalake", "zarr", "pyarrow")


def software_versions() -> dict[str, str]:
    """Versions of Python, the processor's kind and the packages that are installed here."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def device_name(device: torch.device) -> str:
    """A device as torch calls it, with its maker's name for it."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)
