"""Every kernel must give the same attention and log-sum-exp; one that refuses must not cost the label."""

import pytest
import torch

from mctrace.base_model import attention_kernels
from mctrace.base_model.attention_kernels import (
    attention_with_lse,
    flash_cpu,
    kernels_for,
    matmul_attention,
    refusals,
)


@pytest.fixture(autouse=True)
def _nothing_refused(monkeypatch):
    monkeypatch.setattr(attention_kernels, "_refused", {})


def reference(query, key, value, causal, scale):
    """In float64, one row of the score matrix after another."""
    query, key, value = (part.double() for part in (query, key, value))
    scores = query @ key.transpose(-1, -2) * scale
    if causal:
        scores = scores + torch.triu(torch.full(scores.shape[-2:], -torch.inf, dtype=torch.float64), 1)
    return torch.softmax(scores, -1) @ value, torch.logsumexp(scores, -1)


def inputs(rows, heads, length, num_keys, width, dtype):
    generator = torch.Generator().manual_seed(3)
    shapes = ((rows, heads, length, width), *2 * ((rows, heads, num_keys, width),))
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("causal", "length", "num_keys"), [(True, 37, 37), (False, 37, 51), (False, 5, 1)])
@pytest.mark.parametrize("scores_per_chunk", [1, 500, 2**26])
@pytest.mark.parametrize("kernel", [flash_cpu, matmul_attention])
def test_output_and_log_sum_exp_are_those_of_the_definition(
    kernel, scores_per_chunk, causal, length, num_keys, dtype, monkeypatch
):
    monkeypatch.setattr(attention_kernels, "_SCORES_PER_CHUNK", scores_per_chunk)
    query, key, value = inputs(2, 3, length, num_keys, 16, dtype)
    out, lse = kernel(query, key, value, causal, 0.2)
    expected, expected_lse = reference(query, key, value, causal, 0.2)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(out.double(), expected, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(lse.double(), expected_lse, atol=tolerance, rtol=tolerance)
    assert out.dtype == dtype
    assert lse.dtype == torch.float32


@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_device_ends_with_what_can_do_everything(device, dtype):
    assert kernels_for(device, dtype)[-1] is matmul_attention


def test_a_kernel_that_refuses_is_asked_once_and_named(monkeypatch, caplog):
    asked = []

    def broken(*arguments):
        asked.append(arguments)
        raise RuntimeError("no kernel image\nsecond line")

    monkeypatch.setattr(attention_kernels, "kernels_for", lambda *_: (broken, matmul_attention))
    tensors = inputs(1, 2, 9, 9, 8, torch.float32)
    expected, _ = reference(*tensors, True, 0.3)
    for _ in range(3):
        out, _ = attention_with_lse(*tensors, True, 0.3)
        torch.testing.assert_close(out.double(), expected, atol=1e-5, rtol=1e-5)
    assert len(asked) == 1
    assert refusals() == {"broken cpu torch.float32 8": "no kernel image"}
    assert len(caplog.records) == 1


def test_another_dtype_is_asked_for_anew(monkeypatch):
    def halves_only(query, key, value, causal, scale):
        if query.dtype == torch.float32:
            raise RuntimeError("expected half precision")
        return matmul_attention(query, key, value, causal, scale)

    monkeypatch.setattr(attention_kernels, "kernels_for", lambda *_: (halves_only, matmul_attention))
    for dtype in (torch.float32, torch.bfloat16):
        attention_with_lse(*inputs(1, 2, 9, 9, 8, dtype), False, 0.3)
    assert list(refusals()) == ["halves_only cpu torch.float32 8"]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, torch.AcceleratorError])
def test_memory_and_broken_devices_are_no_refusal(error, monkeypatch):
    def full(*_):
        raise error("CUDA out of memory")

    monkeypatch.setattr(attention_kernels, "kernels_for", lambda *_: (full, matmul_attention))
    with pytest.raises(error):
        attention_with_lse(*inputs(1, 2, 9, 9, 8, torch.float32), False, 0.3)
    assert not refusals()
