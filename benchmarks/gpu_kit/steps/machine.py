"""What the machine is, and the rates that nothing on it can exceed: matrix products, copies, launches."""

import torch

from benchmarks.gpu_kit.context import StepContext
from benchmarks.gpu_kit.timing import matmul_flops, seconds, wall_seconds


def run(context: StepContext) -> None:
    device, size = context.device, context.sizes.matmul
    if context.on_cuda:
        about = torch.cuda.get_device_properties(device)
        free, total = torch.cuda.mem_get_info(device)
        context.say(
            "device", name=about.name, multiprocessors=about.multi_processor_count,
            capability=f"{about.major}.{about.minor}", memory_bytes=total, free_bytes=free,
            cuda=torch.version.cuda, cudnn=torch.backends.cudnn.version(),
            flash_sdp=torch.backends.cuda.is_flash_attention_available(),
            bf16_reduced_reduction=torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction,
            tf32=torch.backends.cuda.matmul.allow_tf32,
        )  # fmt: skip
    else:
        context.say("device", name="cpu", threads=torch.get_num_threads())
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        rate = matmul_flops(device, dtype, size, size, size, context.sizes.rounds)
        context.say("matmul", dtype=str(dtype), precision="highest", size=size, flops_per_s=rate)
    torch.set_float32_matmul_precision("high")
    rate = matmul_flops(device, torch.float32, size, size, size, context.sizes.rounds)
    context.say("matmul", dtype="torch.float32", precision="high", size=size, flops_per_s=rate)
    source = torch.randn(size * size * 8, device=device)
    copy = seconds(device, source.clone, context.sizes.rounds)
    context.say("copy", bytes_per_s=2 * source.numel() * source.element_size() / copy)
    small = torch.ones(1, device=device)

    def launches() -> None:
        for _ in range(1000):
            small.add_(1)

    launches()
    context.say("launch", seconds=wall_seconds(device, launches)[0] / 1000)
