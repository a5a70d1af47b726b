"""Probe of one worker: its model's values, on its device, for a small seeded trajectory.

Random weights, a wrong dtype and a broken device give labels that look like any others. So before a run
measures anything, every worker measures the same trajectory, which depends on the tokenizer alone, and its
labels are compared with the other workers' and an earlier run's (`worker_agreement.py`).
"""

import math
import platform
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mctrace.base_model.causal_lm import FrozenCausalLM
from mctrace.base_model.document_tree import DocumentTree
from mctrace.collect.measuring.evaluator import Batching, measure_baseline, measure_edits
from mctrace.collect.measuring.machine import device_name
from mctrace.collect.planning.edits import action_edit, no_edit
from mctrace.context.actions import Action
from mctrace.context.lod_map import LODMap
from mctrace.context.trajectory import Trajectory
from mctrace.context.tree import Node, TreeShape
from mctrace.gists.network.gistnet import GistNet, MeanGistNet, build_tree
from mctrace.seeding import generator_for

PROBE_VERSION = 1
"""Raised when the same worker would give other values."""
_TREE = TreeShape(4, 1)
_BLOCKS = 6
"""at each level: twelve actions, on a context of 30 entries"""
_HORIZON = 16
_GISTS = 4
"""blocks whose gists are compared"""


@dataclass(frozen=True)
class Probe:
    """Values of one worker; equal to other workers' up to the order of arithmetic."""

    nll: float
    """mean loss of the trajectory's tokens, nats"""
    delta_nll: tuple[float, ...]
    """labels of six expands and six collapses with mean-pooled gists, nats per token"""
    gists: tuple[float, ...]
    """the run's GistNet: a seeded projection of some gists, in units of their children's size"""
    no_op: float
    """label of an edit that changes nothing: noise, nats per token"""
    where: str
    """host and device"""

    @property
    def values(self) -> tuple[float, ...]:
        return (self.nll, *self.delta_nll, *self.gists)


def measure_probe(model: FrozenCausalLM, gistnet: GistNet, tokenizer_hash: str, block_size: int) -> Probe:
    """The probe of `model`, and of `gistnet` on blocks of `block_size` tokens."""
    head = LODMap.of_tokens(_TREE, 0, 2 * _BLOCKS * _TREE.block_size).with_level(slice(0, _BLOCKS), 1)
    trajectory = Trajectory(head, (head.cursor,), _HORIZON)
    tokens_T = _tokens(model, trajectory.end, "trajectory", tokenizer_hash)
    document = DocumentTree(tokens_T, build_tree(MeanGistNet(), model.embed(tokens_T), _TREE))
    actions = [Action("expand", Node(1, i)) for i in range(_BLOCKS)]
    actions += [Action("collapse", Node(1, i)) for i in range(_BLOCKS, 2 * _BLOCKS)]
    edits = [action_edit(trajectory, action) for action in actions]
    edits.append(no_edit(trajectory, head.num_entries // 2))
    baseline = measure_baseline(model, document, trajectory)
    measured = measure_edits(model, document, trajectory, edits, baseline, Batching(model.batch_tokens))
    *labels, no_op = (_number(delta_H.float().mean()) for delta_H in measured.deltas)
    blocks_MK = _tokens(model, _GISTS * block_size, "gists", tokenizer_hash).view(_GISTS, block_size)
    gists = _projected(gistnet, model.embed(blocks_MK), tokenizer_hash)
    where = f"{platform.node()}, {device_name(model.device)}"
    return Probe(_number(baseline.nll_H.float().mean()), tuple(labels), gists, abs(no_op), where)


def largest_difference(a: Sequence[float], b: Sequence[float]) -> float:
    """Between two lists of values; infinite where only one of a pair is a number."""
    return max(spread(pair) for pair in zip(a, b, strict=True))


def spread(values: Sequence[float]) -> float:
    """Largest minus smallest; infinite where only some are numbers, 0 where none is."""
    numbers = [value for value in values if not math.isnan(value)]
    if len(numbers) < len(values):
        return math.inf if numbers else 0.0
    return max(numbers) - min(numbers)


def _number(value: Tensor) -> float:
    """NaN for whatever is not finite, so that the probes of two workers can be compared."""
    return float(value) if torch.isfinite(value) else math.nan


def _tokens(model: FrozenCausalLM, num_tokens: int, *key: str) -> Tensor:
    vocabulary_size = len(model.network.get_input_embeddings().weight)
    return torch.from_numpy(generator_for("probe", *key).integers(0, vocabulary_size, num_tokens))


@torch.inference_mode()
def _projected(gistnet: GistNet, children_MKd: Tensor, tokenizer_hash: str) -> tuple[float, ...]:
    gists_Md = gistnet.gists(children_MKd, 1).float().cpu()
    scale_M = children_MKd.float().square().mean(dim=(1, 2)).sqrt().cpu()
    width = gists_Md.shape[-1]
    direction_d = torch.from_numpy(generator_for("probe", "direction", tokenizer_hash).standard_normal(width))
    projected_M = gists_Md @ direction_d.float() / (scale_M * width**0.5)
    return tuple(map(_number, projected_M))
