"""One optimiser step on one global batch, however it is divided."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from accelerate import Accelerator
from torch import nn

from vla.training.metrics import Stopwatch
from vla.training.objective import Objective
from vla.types import Batch


def backward(
    model: nn.Module,
    objective: Objective,
    batches: Sequence[Batch],
    accelerator: Accelerator,
    watch: Stopwatch,
    *,
    bf16: bool,
    clip: float | None,
) -> dict[str, float]:
    """Leaves in `.grad` the clipped gradient of the mean loss over the valid steps of the global batch.

    The global batch is what all processes hold in their `batches` together. Each micro-batch's loss is a mean
    over its own valid steps; weighted by its share of all valid steps, these means add up to the global one.

    Args:
        model: the learner as accelerate wrapped it: forward gives (loss, metrics).
        batches: this process's micro-batches, on its device.
        bf16: run the forward pass under bfloat16 autocast.
        clip: greatest gradient norm; None does not clip.

    Returns:
        Global means `loss` and the objective's metrics, and `grad_norm` before clipping; the same on all processes.
    """
    weights = torch.stack([objective.weight(batch).float() for batch in batches])
    shares = weights / accelerator.reduce(weights.sum(), "sum").clamp(min=1e-12)
    means: dict[str, torch.Tensor] = {}
    for number, (batch, share) in enumerate(zip(batches, shares, strict=True), 1):
        with accelerator.no_sync(model) if number < len(batches) else nullcontext():
            with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=bf16):
                loss, metrics = model(batch)
            watch.lap("forward")
            # Distributed training averages gradients over the processes; they are to be summed.
            accelerator.backward(loss * (share * accelerator.num_processes))
            watch.lap("backward")
        for name, value in {"loss": loss, **metrics}.items():
            means[name] = means.get(name, 0.0) + value.detach().float() * share
    norm = accelerator.clip_grad_norm_(model.parameters(), clip or float("inf"))
    assert norm is not None
    values = accelerator.reduce(torch.stack(list(means.values())), "sum")
    return dict(zip([*means, "grad_norm"], [*values.tolist(), float(norm)], strict=True))
