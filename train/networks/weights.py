"""Weights as safetensors hold them: whole, of the network they are for, and numbers.

A weight that a file lacks would stay what the network was initialised with, and the scores that follow look
like any others. So whoever loads a base model, a GistNet or a LensNet refuses weights that do not match it.
"""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

_WRAPPERS = ("module.", "_orig_mod.", "_fsdp_wrapped_module.")
"""what DistributedDataParallel, torch.compile and FSDP put before the names of what they wrap"""
_NAMED = 3
"""keys that a message names before it only counts"""

Shape = tuple[int, ...]


def read_weights(path: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a safetensors file, which must be those of a state dict by name and shape, floats where
    it has floats, and finite. Raises ValueError with the reason, which names the file."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        found: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path.name} cannot be read as weights ({error}): copy the folder again") from error
    wrong = (
        mismatch(
            expected.keys() - found.keys(),
            found.keys() - expected.keys(),
            {
                name: (tuple(found[name].shape), tuple(tensor.shape))
                for name, tensor in expected.items()
                if name in found and found[name].shape != tensor.shape
            },
        )
        or _other_kind(found, expected)
        or not_finite(found.items())
    )
    if wrong:
        raise ValueError(f"{path.name} {wrong}")
    return found


def mismatch(
    missing: Collection[str], unexpected: Collection[str], shapes: Mapping[str, tuple[Shape, Shape]]
) -> str | None:
    """How weights differ from a network's, with the remedy; None where they do not.

    `shapes` are those of the file and of the network, where they differ.
    """
    said = []
    if missing:
        said.append(f"lacks {_some(missing)}")
    if unexpected:
        said.append(f"has {_some(unexpected)}, which the network has no place for")
    if shapes:
        found = {f"{name} {have} instead of {want}" for name, (have, want) in shapes.items()}
        said.append(f"has {_some(found)}")
    return f"{' and '.join(said)}: {_remedy(missing, unexpected)}" if said else None


def not_finite(tensors: Iterable[tuple[str, Tensor]]) -> str | None:
    """Which tensors hold NaN or infinity; None when none does. Copies nothing, wherever they are."""
    damaged = [name for name, tensor in tensors if not _is_finite(tensor)]
    if not damaged:
        return None
    return f"holds NaN or infinity in {_some(damaged)}: it was saved after it diverged, or is damaged"


def _is_finite(tensor: Tensor) -> bool:
    # Smaller floats than these are quantised codes, for which torch knows no order.
    if not tensor.is_floating_point() or tensor.dtype.itemsize < 2 or tensor.is_meta or not tensor.numel():
        return True
    return bool(torch.isfinite(torch.stack(torch.aminmax(tensor.detach()))).all())


def _other_kind(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str | None:
    other = [
        name
        for name, tensor in expected.items()
        if tensor.is_floating_point() != found[name].is_floating_point()
    ]
    return f"holds other numbers than floats in {_some(other)}: copy the folder again" if other else None


def _some(names: Collection[str]) -> str:
    """The first few by name, and how many there are."""
    first = ", ".join(sorted(names)[:_NAMED])
    return first if len(names) <= _NAMED else f"{first} and {len(names) - _NAMED} more"


def _remedy(missing: Collection[str], unexpected: Collection[str]) -> str:
    for wrapper in _WRAPPERS:
        if any(wrapper in name for name in unexpected):
            return f'keys start with "{wrapper}": save the unwrapped model'
    longer = min(unexpected, default="")
    prefixes = sorted(longer.removesuffix(name) for name in missing if longer.endswith(name))
    if prefixes and prefixes[0]:
        return f'keys start with "{prefixes[0]}": save the model itself, not what holds it'
    return "its configuration and its weights are not of one model; copy the folder again"
