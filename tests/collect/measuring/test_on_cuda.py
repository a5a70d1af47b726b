"""The evaluator on a CUDA device that is not there: shapes, devices and dtypes without arithmetic.

Fake tensors say where they live. torch then refuses to mix devices as it would on a GPU, has no value to
give to whoever asks for one (which on a GPU means waiting for it), and checks each operator's signature.
"""

from collections import Counter

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM

from mctrace.base_model import attention_kernels
from mctrace.base_model.attention_kernels import flash_cuda, kernels_for, matmul_attention, varlen_cuda
from mctrace.base_model.causal_lm import FrozenCausalLM
from mctrace.base_model.document_tree import DocumentTree
from mctrace.base_model.loading import choose_own_attention
from mctrace.collect.measuring.evaluator import Batching, measure_baseline, measure_edits
from mctrace.collect.measuring.naive_evaluator import naive_delta_nll
from mctrace.collect.planning.edits import action_edit
from mctrace.context.trajectory import Trajectory
from tests.collect.measuring.test_evaluator import HORIZON, PROTECTED_TAIL, mixed_trajectory
from tests.models import CONFIGS, WIDTH

CUDA = torch.device("cuda:0") if torch.backends.cuda.is_built() else torch.device("meta")
"""a build without CUDA cannot even pretend to index its tensors; it pretends with another device that is not
the CPU, and the evaluator takes the same way"""
LOCAL = ("mistral", "gemma2")
"""architectures all of whose attention is local or soft-capped, and so never fused"""


class Operators(TorchDispatchMode):
    """Counts the operators that run; copies to a GPU only say where the copy is, since a fake tensor that
    came from numpy would be copied for real."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.count[operator.overloadpacket.__name__] += 1
        kwargs = kwargs or {}
        given = [*args[1:], *kwargs.values()]
        if operator.overloadpacket in (torch.ops.aten.to, torch.ops.aten._to_copy) and CUDA in given:
            self.count["copy that waits"] += args[0].device.type == "cpu" and True not in given
            dtype = next((x for x in given if isinstance(x, torch.dtype)), args[0].dtype)
            return torch.empty(args[0].shape, dtype=dtype, device=CUDA)
        return operator(*args, **kwargs)


@pytest.fixture
def cuda(monkeypatch):
    """Memory figures of a GPU, and fake tensors that may live on it."""
    monkeypatch.setattr(attention_kernels, "_refused", {})
    monkeypatch.setattr(attention_kernels, "kernels_for", lambda _, dtype: kernels_for("cuda", dtype))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (60 * 2**30, 80 * 2**30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 10 * 2**30)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 4 * 2**30)
    with FakeTensorMode(), Operators() as operators:
        yield operators.count


def on_cuda(architecture: str, dtype) -> FrozenCausalLM:
    """A tiny model with every weight and buffer a fake one on the GPU."""
    with unset_fake_temporarily(), torch.device("meta"):
        network = AutoModelForCausalLM.from_config(CONFIGS[architecture]())
    for module in network.modules():
        for held in (module._parameters, module._buffers):
            for name, tensor in held.items():
                if tensor is not None:
                    kind = dtype if tensor.is_floating_point() else tensor.dtype
                    fake = torch.empty(tensor.shape, dtype=kind, device=CUDA)
                    held[name] = torch.nn.Parameter(fake, False) if held is module._parameters else fake
    network.tie_weights()
    choose_own_attention(network)
    return FrozenCausalLM(network.eval())


def make_document(model: FrozenCausalLM, dtype) -> DocumentTree:
    """Token ids stay on the CPU, as documents have them; gists lie beside the embeddings."""
    tokens_T = torch.ones(160, dtype=torch.int64)
    gists = [torch.empty(160 // width, WIDTH, dtype=dtype, device=CUDA) for width in (4, 16)]
    return DocumentTree(tokens_T, [model.embed(tokens_T), *gists])


def measure(model, document, trajectory: Trajectory, window=None) -> list[torch.Tensor]:
    baseline = measure_baseline(model, document, trajectory)
    edits = [action_edit(trajectory, action) for action in trajectory.legal_actions(PROTECTED_TAIL)]
    return list(
        measure_edits(model, document, trajectory, edits, baseline, Batching(600), window=window).deltas
    )


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", CONFIGS)
def test_labels_come_out_on_the_device_without_waiting_for_it(architecture, dtype, window, cuda):
    model = on_cuda(architecture, dtype)
    document, trajectory = make_document(model, dtype), mixed_trajectory()
    cuda.clear()
    deltas = measure(model, document, trajectory, window)
    assert deltas
    assert cuda["copy that waits"] == 0
    assert {(delta_H.device.type, delta_H.dtype) for delta_H in deltas} == {(CUDA.type, torch.float32)}
    assert not attention_kernels.refusals()
    fused = {
        torch.float32: "_scaled_dot_product_efficient_attention",
        torch.bfloat16: "_scaled_dot_product_flash_attention",
    }[dtype]
    assert bool(cuda[fused]) == (architecture not in LOCAL)


def test_attention_mass_and_the_naive_evaluation_run_on_the_device(cuda):
    model = on_cuda("llama", torch.bfloat16)
    document, trajectory = make_document(model, torch.bfloat16), mixed_trajectory()
    baseline = measure_baseline(model, document, trajectory, attention_mass=True)
    assert baseline.attention_mass_N is not None
    action = trajectory.legal_actions(PROTECTED_TAIL)[0]
    snapshot = trajectory.head.extended(trajectory.first_cursor)
    delta_H = naive_delta_nll(model, document, snapshot, action, HORIZON)
    assert delta_H.shape == (HORIZON,)


@pytest.mark.parametrize("kernel", [flash_cuda, varlen_cuda, matmul_attention])
def test_every_half_precision_kernel_takes_what_the_evaluator_gives(kernel, cuda, monkeypatch):
    monkeypatch.setattr(attention_kernels, "kernels_for", lambda *_: (kernel, matmul_attention))
    model = on_cuda("llama", torch.bfloat16)
    assert measure(model, make_document(model, torch.bfloat16), mixed_trajectory(), window=4)
    assert not attention_kernels.refusals()


@pytest.mark.skipif(CUDA.type != "cuda", reason="asks the model for its device's memory")
def test_batches_count_what_the_allocator_keeps_as_free(cuda, monkeypatch):
    model = on_cuda("llama", torch.bfloat16)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (0, 80 * 2**30))
    kept = model.batch_tokens
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 4 * 2**30)
    assert kept > model.batch_tokens == 1024


def test_the_check_itself_sees_mixed_devices_and_waiting(cuda):
    on_gpu = torch.ones(3, device=CUDA)
    with pytest.raises(Exception, match="device"):
        on_gpu + torch.ones(3)
    with pytest.raises(Exception, match="_local_scalar_dense"):
        float(on_gpu.sum())
