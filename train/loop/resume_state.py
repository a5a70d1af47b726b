"""Resume state: everything a run needs besides its weights to continue bit for bit (`training_state` files).

Tensors (AdamW's moments, random generator states, the preference objective's running statistics) are stored
as safetensors, numbers as JSON, whose floats round-trip exactly. Nothing is pickled.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mctrace.errors import InputError
from mctrace.train.checkpoints.manifest import check_manifest
from mctrace.train.data_parallel import ProcessGroup
from mctrace.train.loop.optimisation_steps import Step
from mctrace.train.loop.training_loop import LoopState
from mctrace.train.objectives.preference_state import PreferenceState

TENSORS = "training_state.safetensors"
NUMBERS = "training_state.json"


@dataclass(frozen=True)
class ResumeState:
    """Everything but the weights that changes from step to step; restored in place."""

    network: nn.Module
    optimiser: torch.optim.Optimizer
    preference: PreferenceState | None
    """None where the network has no preference objective"""
    loop: LoopState

    def tensors(self, workers: ProcessGroup) -> dict[str, Tensor]:
        """Tensors by name. Collective: every worker must call it, since each has its own generators."""
        found: dict[str, Tensor] = {}
        for name, parameter in self.network.named_parameters():
            for key, value in self.optimiser.state.get(parameter, {}).items():
                found[f"optimiser/{name}/{key}"] = torch.as_tensor(value).detach().cpu()
        for rank, states in enumerate(workers.all_gather(_generator_states())):
            found |= {f"chance/{rank}/{device}": state for device, state in states.items()}
        if self.preference is not None:
            found |= {f"preference/{name}": value for name, value in self.preference.tensors().items()}
        return {name: value.contiguous() for name, value in found.items()}

    def write(self, folder: Path, tensors: Mapping[str, Tensor]) -> None:
        """Write the result of `tensors`, and the numbers, into a checkpoint folder."""
        from safetensors.torch import save_file

        save_file(dict(tensors), folder / TENSORS)
        (folder / NUMBERS).write_text(json.dumps(asdict(self.loop), indent=1, allow_nan=False), "utf-8")

    def restore(self, folder: Path, workers: ProcessGroup) -> None:
        """Restore what `write` left in `folder`. The weights are not included: load the checkpoint.

        Raises InputError when the folder has no such state, or one of another network or number of workers.
        """
        tensors, numbers = _read(folder)
        try:
            self._restore_optimiser(tensors)
            if self.preference is not None:
                self.preference.restore(_below(tensors, "preference/"))
            for name, value in numbers.items():
                setattr(self.loop, name, value)
            self.loop.window = [Step(**step) for step in numbers["window"]]
        except (KeyError, TypeError) as error:
            raise InputError(
                f"{folder} holds the training state of another network or mctrace ({error!r}): start over "
                "with --overwrite"
            ) from error
        ranks = {name.split("/")[1] for name in tensors if name.startswith("chance/")}
        if len(ranks) != workers.size:
            raise InputError(
                f"{folder} was written by {len(ranks)} workers: resume with as many, not {workers.size}"
            )
        _set_generator_states(_below(tensors, f"chance/{workers.rank}/"))

    def _restore_optimiser(self, tensors: Mapping[str, Tensor]) -> None:
        for name, parameter in self.network.named_parameters():
            found = _below(tensors, f"optimiser/{name}/")
            if not found:
                raise KeyError(name)
            # AdamW keeps its step count on the CPU, its moments beside the parameter.
            self.optimiser.state[parameter] = {
                key: value if key == "step" else value.to(parameter.device) for key, value in found.items()
            }


def _generator_states() -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _set_generator_states(states: Mapping[str, Tensor]) -> None:
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
            f"{folder} has no training state to resume from ({error}): it is no step checkpoint, or "
            "damaged; start over with --overwrite"
        ) from error
