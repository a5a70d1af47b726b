"""The kit's steps in order of worth. A further one is a file in `steps/` with `run(context)` and a line here.

Only this is read by the process that watches over the steps, so nothing is imported that could hang.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class KitStep:
    """A question to the machine, answered by `steps/NAME.py`."""

    name: str
    limit_s: float
    """seconds after which it is ended, whatever it has found until then stays"""
    answers: str
    needs_smollm2: bool = False


STEPS = (
    KitStep("machine", 40, "what the machine is and what it can do at best"),
    KitStep(
        "labels", 90, "labels of SmolLM2 on real text against naive ones and the CPU's", needs_smollm2=True
    ),
    KitStep("architectures", 75, "labels of tiny random models of every architecture, the same way"),
    KitStep("evaluator", 150, "labels per second of a 1B Llama, against naive and the matrix rate"),
    KitStep(
        "gradient", 90, "the gradient estimator against exact labels: fidelity and cost", needs_smollm2=True
    ),
    KitStep("profile", 60, "where the evaluator's time goes"),
    KitStep("lensnet", 110, "LensNet's forward pass: eager, as a CUDA graph, compiled"),
    KitStep("attention", 110, "public attention with a log-sum-exp against the private operators"),
    KitStep("training", 60, "a training step's phases, the loss by number of actions"),
    KitStep("memory", 60, "batch sizes, logits at once, and what running out of memory does"),
    KitStep(
        "gists",
        600,
        "a key-value GistNet trained on it, beside untrained gists and deletion",
        needs_smollm2=True,
    ),
)
