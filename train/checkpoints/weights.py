"""Checks on weights read from safetensors: complete, matching the network, finite.

A weight missing from a file would keep its initial value, and the resulting scores would look like any
others. So base models, GistNets and LensNets all refuse weights that do not match the network.
"""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

_WRAPPERS = ("module.", "_orig_mod.", "_fsdp_wrapped_module.")
"""prefixes that DistributedDataParallel, torch.compile and FSDP put before the names of what they wrap"""
_NAMED = 3
"""most keys that a message names; the others are counted"""

Shape = tuple[int, ...]


def read_weights(path: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a safetensors file, checked against a state dict.

    Names and shapes must be equal, floats must stand where `expected` has floats, and all must be finite.
    Raises ValueError naming the file and the reason.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        found: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path.name} cannot be read as weights ({error}): copy the folder again") from error
    wrong = (
        weight_mismatch(
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


def weight_mismatch(
    missing: Collection[str], unexpected: Collection[str], shapes: Mapping[str, tuple[Shape, Shape]]
) -> str | None:
    """Differences between a file's weights and a network's, with the remedy; None when there are none.

    `shapes` maps names to (shape in the file, shape in the network) where these differ.
    """
    found_differences = []
    if missing:
        found_differences.append(f"lacks {_some(missing)}")
    if unexpected:
        found_differences.append(f"has {_some(unexpected)}, which the network has no place for")
    if shapes:
        found = {f"{name} {have} instead of {want}" for name, (have, want) in shapes.items()}
        found_differences.append(f"has {_some(found)}")
    if not found_differences:
        return None
    return f"{' and '.join(found_differences)}: {_remedy(missing, unexpected)}"


def not_finite(tensors: Iterable[tuple[str, Tensor]]) -> str | None:
    """Names of tensors that hold NaN or infinity, as a message; None when none does. Copies no tensor."""
    damaged = [name for name, tensor in tensors if not _is_finite(tensor)]
    if not damaged:
        return None
    return f"holds NaN or infinity in {_some(damaged)}: it was saved after it diverged, or is damaged"


def _is_finite(tensor: Tensor) -> bool:
    # Floats of one byte are quantised codes, which torch cannot compare.
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
    """The first few names, and the number of the others."""
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
