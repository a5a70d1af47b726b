"""The forward pass of a LensNet through torch.compile, for training.

Shapes are compiled as they are: batches come in few padded lengths (`bucketed_length`), so that a run
compiles some times at its start and not for ever. The network itself stays as it is: its parameters are
shared, so optimiser, checkpoints and validation know nothing of it.
"""

from collections.abc import Callable

import torch

from mctrace.train.networks.focus import Scores
from mctrace.train.networks.lensnet import LensNet

_MOST_SHAPES = 256
"""shapes compiled before torch falls back to the uncompiled network: lengths times sizes of batches"""


def compiled_network(network: LensNet, backend: str = "inductor") -> Callable[..., Scores]:
    """What calls the network compiled, once for each shape that it meets."""
    torch._dynamo.config.recompile_limit = _MOST_SHAPES
    return torch.compile(network, dynamic=False, backend=backend)
