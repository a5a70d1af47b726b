"""What a run needs besides its weights to go on as if it had never stopped: `training_state` files.

Tensors (AdamW's moments, chance, what the preference objective remembers) are in safetensors, numbers in
JSON, whose floats come back bit for bit. Nothing is pickled.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mctrace.errors import InputError
from mctrace.train.distribution import Workers
from mctrace.train.loop.manifest import check_manifest
from mctrace.train.loop.optimisation import Step
from mctrace.train.loop.trainer import FitState
from mctrace.train.objectives.preference_state import PreferenceState

TENSORS = "training_state.safetensors"
NUMBERS = "training_state.json"


@dataclass(frozen=True)
class TrainingState:
    """Everything that changes from step to step, except the weights; restored in place."""

    network: nn.Module
    optimiser: torch.optim.Optimizer
    preference: PreferenceState
    fit: FitState

    def tensors(self, workers: Workers) -> dict[str, Tensor]:
        """By name; every worker has to ask, since each has chance of its own."""
        found: dict[str, Tensor] = {}
        for name, parameter in self.network.named_parameters():
            for key, value in self.optimiser.state.get(parameter, {}).items():
                found[f"optimiser/{name}/{key}"] = torch.as_tensor(value).detach().cpu()
        for rank, chance in enumerate(workers.gathered(_chance())):
            found |= {f"chance/{rank}/{device}": state for device, state in chance.items()}
        found |= {f"preference/{name}": value for name, value in self.preference.tensors().items()}
        return {name: value.contiguous() for name, value in found.items()}

    def write(self, folder: Path, tensors: Mapping[str, Tensor]) -> None:
        """Put what `tensors` gave, and the numbers, into a checkpoint's folder."""
        from safetensors.torch import save_file

        save_file(dict(tensors), folder / TENSORS)
        (folder / NUMBERS).write_text(json.dumps(asdict(self.fit), indent=1, allow_nan=False), "utf-8")

    def restore(self, folder: Path, workers: Workers) -> None:
        """Become what `write` left in `folder`; the weights are the checkpoint's, read elsewhere.

        Raises InputError when the folder has no such state, or that of another network or other workers.
        """
        tensors, numbers = _read(folder)
        try:
            self._restore_optimiser(tensors)
            self.preference.restore(_below(tensors, "preference/"))
            for name, value in numbers.items():
                setattr(self.fit, name, value)
            self.fit.window = [Step(**step) for step in numbers["window"]]
        except (KeyError, TypeError) as error:
            raise InputError(
                f"{folder} holds the training state of another network or mctrace ({error!r}): train anew "
                "with --overwrite"
            ) from error
        chance = _below(tensors, f"chance/{workers.rank}/")
        others = {name.split("/")[1] for name in tensors if name.startswith("chance/")}
        if len(others) != workers.size:
            raise InputError(
                f"{folder} was written by {len(others)} workers: go on with as many, not {workers.size}"
            )
        _set_chance(chance)

    def _restore_optimiser(self, tensors: Mapping[str, Tensor]) -> None:
        for name, parameter in self.network.named_parameters():
            found = _below(tensors, f"optimiser/{name}/")
            if not found:
                raise KeyError(name)
            # AdamW keeps its step count on the CPU, its moments beside the parameter.
            self.optimiser.state[parameter] = {
                key: value if key == "step" else value.to(parameter.device) for key, value in found.items()
            }


def _chance() -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _set_chance(states: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _read(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        check_manifest(folder, (NUMBERS, TENSORS))
        numbers = json.loads((folder / NUMBERS).read_text(encoding="utf-8"))
        return load_file(folder / TENSORS), numbers
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(
            f"{folder} has no training state to go on from ({error}): it is not the checkpoint of a step, or "
            "damaged; train anew with --overwrite"
        ) from error
