"""One optimiser step on one global batch, however it is divided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import cast

import torch
from accelerate import Accelerator
from torch import nn

from vla.data.loading.image_text import ImageTextBatch
from vla.training.metrics import Stopwatch
from vla.training.objective import Learner, Objective
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
    pairs: Sequence[ImageTextBatch] | None = None,
    pairs_weight: float = 0.0,
) -> dict[str, float]:
    """Leaves in `.grad` the clipped gradient of the mean loss over the valid steps of the global batch.

    The global batch is what all processes hold in their `batches` together. Each micro-batch's loss is a mean
    over its own valid steps; weighted by its share of all valid steps, these means add up to the global one.

    Args:
        model: the learner as accelerate wrapped it: forward gives (loss, loss of pairs, metrics).
        batches: this process's micro-batches, on its device.
        bf16: run the forward pass under bfloat16 autocast.
        clip: greatest gradient norm, of the policy and of the objective's own parameters (critics) each; None does not
            clip.
        pairs: image-text pairs of each micro-batch, equally many everywhere.
        pairs_weight: of the pairs' mean loss.

    Returns:
        Global means `loss` (of the robot data; the pairs' is `image_text_loss`, unweighted) and the objective's metrics, and `grad_norm` before clipping; the same on all processes.
    """
    weights = torch.stack([objective.weight(batch).float() for batch in batches])
    shares = weights / sum_over_processes(weights.sum(), accelerator).clamp(min=1e-12)
    means: dict[str, torch.Tensor] = {}
    for number, (batch, share) in enumerate(zip(batches, shares, strict=True), 1):
        with accelerator.no_sync(model) if number < len(batches) else nullcontext():
            with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=bf16):
                loss, pairs_loss, metrics = model(batch, *([pairs[number - 1]] if pairs else []))
            watch.lap("forward")
            # Distributed training averages gradients over the processes; they are to be summed.
            total = loss * (share * accelerator.num_processes)
            if pairs_loss is not None:
                total = total + pairs_weight / len(batches) * pairs_loss
                even = 1 / (len(batches) * accelerator.num_processes)
                means["image_text_loss"] = (
                    means.get("image_text_loss", 0.0) + pairs_loss.detach().float() * even
                )
            accelerator.backward(total)
            watch.lap("backward")
        told = {"loss": loss, **metrics}
        parts = torch.stack([value.detach().float() for value in told.values()]) * share
        for name, part in zip(told, parts.unbind(), strict=True):
            means[name] = means[name] + part if name in means else part
    norms = clip_gradients(model, objective, accelerator, clip)
    values = sum_over_processes(torch.stack(list(means.values())), accelerator)
    return dict(zip(means, values.tolist(), strict=True)) | norms


def sum_over_processes(values: torch.Tensor, accelerator: Accelerator) -> torch.Tensor:
    """The same everywhere; as it is where there is one process, which a step of a small network would feel."""
    return (
        cast(torch.Tensor, accelerator.reduce(values, "sum"))
        if accelerator.num_processes > 1
        else values
    )


def clip_gradients(
    model: nn.Module, objective: Objective, accelerator: Accelerator, clip: float | None
) -> dict[str, float]:
    """Clips the gradients of the policy and of the objective each by their own norm: a critic whose loss is large must
    not shrink the policy's step. -> the norms before clipping."""
    learner = cast(
        Learner, getattr(model, "module", model)
    )  # inside of what accelerate wrapped it in
    groups = learner.parameter_groups
    if clip is None:
        return gradient_norms(groups)
    return {
        name: float(cast(torch.Tensor, accelerator.clip_grad_norm_(group, clip)))
        for name, group in groups.items()
    }


def gradient_norms(groups: Mapping[str, Sequence[nn.Parameter]]) -> dict[str, float]:
    """The norm of each group's gradients; 0 where it has none."""
    gradients = {
        name: [p.grad for p in group if p.grad is not None] for name, group in groups.items()
    }
    every = [gradient for group in gradients.values() for gradient in group]
    if not every:
        return dict.fromkeys(groups, 0.0)
    sizes = torch.stack([size.float() for size in torch._foreach_norm(every)])
    parts = sizes.split([len(group) for group in gradients.values()])
    return dict(zip(groups, torch.stack([part.norm() for part in parts]).tolist(), strict=True))
