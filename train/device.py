"""Device and precision that a network runs with."""

import torch

from mctrace.errors import ConfigError
from mctrace.train.config import Device, Precision
from mctrace.train.networks.lensnet import LensNet


def resolve_device(device: Device) -> torch.device:
    """The torch device of a `device` setting; raises ConfigError for "cuda" without a CUDA device."""
    has_cuda = torch.cuda.is_available()
    if device == "cuda" and not has_cuda:
        raise ConfigError('train.device is "cuda" but torch sees no CUDA device; use "auto" or "cpu"')
    return torch.device("cuda" if has_cuda and device != "cpu" else "cpu")


def uses_bfloat16(precision: Precision, device: torch.device) -> bool:
    """True if a network computes in bfloat16 under the `precision` setting on `device`."""
    if precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported()
    return precision == "bfloat16"


def device_of(network: LensNet) -> torch.device:
    return next(network.parameters()).device
