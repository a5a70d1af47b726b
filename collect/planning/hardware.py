"""GPUs that are not here, to predict a run for."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Gt, Le

from mctrace.errors import ConfigError
from mctrace.ranges import PositiveFloat, PositiveInt, check_ranges


@dataclass(frozen=True)
class Hardware:
    """Nodes of one kind, and how fast their GPUs are."""

    section: ClassVar[str] = "hardware"

    gpu_tflops: PositiveFloat
    """peak of a GPU in the run's dtype, in TFLOP/s"""
    nodes: PositiveInt = 1
    gpus: PositiveInt = 1
    """GPUs of a node"""
    gpus_per_actor: PositiveFloat = 1.0
    utilisation: Annotated[float, Gt(0), Le(1)] = 0.4
    """share of the peak that a GPU reaches while it computes (`ray_mctrace_mfu` of a run)"""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.gpus_per_actor > self.gpus:
            raise ConfigError(
                f"an actor of {self.gpus_per_actor:g} GPUs fits on no node of {self.gpus}: "
                "give more --gpus, or fewer --gpus-per-actor"
            )

    @property
    def num_actors(self) -> int:
        """Actors that the nodes hold."""
        return self.nodes * int(self.gpus / self.gpus_per_actor)

    @property
    def flops_per_second(self) -> float:
        """Rate of one actor. Layers spread over several GPUs are run one after the other, so that one GPU of
        an actor computes at a time."""
        return self.gpu_tflops * 1e12 * self.utilisation * min(1.0, self.gpus_per_actor)
