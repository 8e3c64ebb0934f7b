"""One optimiser step on one global batch, however it is divided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import cast

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from vla.data.loading.image_text import ImageTextBatch
from vla.data.loading.multi_robot import RobotBatch
from vla.training.metrics import Stopwatch
from vla.training.objective import Learner, Objective


def backward(
    model: nn.Module,
    objective: Objective,
    batches: Sequence[RobotBatch],
    accelerator: Accelerator,
    watch: Stopwatch,
    *,
    bf16: bool,
    clip: float | Mapping[str, float | None] | None,
    pairs: Sequence[ImageTextBatch] | None = None,
    pairs_weight: float = 0.0,
) -> dict[str, float]:
    """Leaves in `.grad` the clipped gradient of the global batch's mean loss.

    The global batch is what all processes hold in their `batches` together. Each micro-batch's loss
    is a mean over its own valid steps; weighted by its share of all valid steps, these means add up
    to the global one: the gradient is that of one process with the whole batch.

    Args:
        model: the learner as accelerate wrapped it: forward gives (loss, loss of pairs, metrics).
        batches: this process's micro-batches, on its device. In a run on several robots processes
            may hold different robots, and different numbers of micro-batches.
        bf16: run the forward pass under bfloat16 autocast.
        clip: greatest gradient norm, of the policy and of the objective's own parameters (critics)
            each; None does not clip. Or one for each name of `Learner.parameter_groups`.
        pairs: image-text pairs of each micro-batch, equally many everywhere.
        pairs_weight: of the pairs' mean loss.

    Returns:
        Global means `loss` (of the robot data; the pairs' is `image_text_loss`, unweighted) and the
        objective's metrics, and `grad_norm` before clipping; the same on all processes.
    """
    robots = learner_in(model, accelerator).policy.robot_names
    means = GlobalMeans(robots)
    shares = shares_of(objective, batches, accelerator)
    processes = accelerator.num_processes
    for number, ((robot, batch), share) in enumerate(zip(batches, shares, strict=True)):
        last = number == len(batches) - 1
        step_pairs = pairs[number] if pairs else None
        # Gradients are averaged over the processes once, with the last micro-batch. So each process
        # does so exactly once a step, however many micro-batches it has.
        with nullcontext() if last else accelerator.no_sync(model):
            with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=bf16):
                loss, pairs_loss, metrics = model(batch, step_pairs, robot)
            watch.lap("forward")
            # Distributed training averages gradients over the processes; they are to be summed.
            total = loss * (share * processes)
            if pairs_loss is not None:
                total = total + pairs_weight / len(batches) * pairs_loss
                even_share = 1 / (len(batches) * processes)
                means.add_one("image_text_loss", pairs_loss.detach().float() * even_share)
            accelerator.backward(total)
            watch.lap("backward")
        means.add({"loss": loss, **metrics}, share, robot)
    norms = clip_gradients(model, objective, accelerator, clip)
    return means.over_processes(accelerator) | norms


def shares_of(
    objective: Objective,
    batches: Sequence[RobotBatch],
    accelerator: Accelerator,
) -> Tensor:
    """The share of each micro-batch in the weight of the global batch, (len(batches),)."""
    weights = torch.stack([objective.weight(batch).float() for _, batch in batches])
    total = sum_over_processes(weights.sum(), accelerator)
    return weights / total.clamp(min=1e-12)


class GlobalMeans:
    """Means over the valid steps of the global batch, added up from the means of its micro-batches.

    Args:
        robots: names of the robots of the run; none if it is on one. `share/NAME` is then the part
            of the valid steps that a robot has, 0 if it is absent. A metric that only some
            micro-batches have, such as a robot's own `loss/NAME`, counts as 0 in the others.
    """

    def __init__(self, robots: Sequence[str] = ()) -> None:
        self._robots = robots
        self._sums: dict[str, Tensor] = {}

    def add(self, metrics: Mapping[str, Tensor], share: Tensor, robot: str = "") -> None:
        """Adds the means of a micro-batch whose share of the global batch is `share`."""
        # stacked: one multiplication for all, since a small network's step would feel one for each
        parts = torch.stack([value.detach().float() for value in metrics.values()]) * share
        for name, part in zip(metrics, parts.unbind(), strict=True):
            self.add_one(name, part)
        if robot:
            self.add_one(f"share/{robot}", share)

    def add_one(self, name: str, part: Tensor) -> None:
        """Adds a number that is multiplied with its share already."""
        self._sums[name] = self._sums[name] + part if name in self._sums else part

    def over_processes(self, accelerator: Accelerator) -> dict[str, float]:
        """The means over all processes; the same on each of them."""
        names = list(self._sums)
        if self._robots:
            names += [f"share/{robot}" for robot in self._robots]
            if accelerator.num_processes > 1:
                # robots may log different metrics, and processes have different robots
                names = gather_object(names)
            names = list(dict.fromkeys(names))
        zero = torch.zeros((), device=accelerator.device)
        stacked = torch.stack([self._sums.get(name, zero) for name in names])
        values = sum_over_processes(stacked, accelerator)
        return dict(zip(names, values.tolist(), strict=True))


def sum_over_processes(values: Tensor, accelerator: Accelerator) -> Tensor:
    """The same everywhere."""
    if accelerator.num_processes == 1:
        return values  # accelerate would copy them, which a step of a small network would feel
    return cast(Tensor, accelerator.reduce(values, "sum"))


def learner_in(model: nn.Module, accelerator: Accelerator) -> Learner:
    """The learner inside of what accelerate wrapped it in."""
    if isinstance(model, Learner):
        return (
            model  # unwrapping walks through all modules, which a small network's step would feel
        )
    return cast(Learner, accelerator.unwrap_model(model))


def clip_gradients(
    model: nn.Module,
    objective: Objective,
    accelerator: Accelerator,
    clip: float | Mapping[str, float | None] | None,
) -> dict[str, float]:
    """Clips the gradients of the policy and of the objective each by their own norm.

    Returns the norms before clipping.
    """
    # apart: a critic whose loss is large must not shrink the policy's step
    groups = learner_in(model, accelerator).parameter_groups
    limits = clip if isinstance(clip, Mapping) else dict.fromkeys(groups, clip)
    free = {name: parameters for name, parameters in groups.items() if limits[name] is None}
    norms = gradient_norms(free) if free else {}
    for name, parameters in groups.items():
        limit = limits[name]
        if limit is not None:
            norms[name] = float(cast(Tensor, accelerator.clip_grad_norm_(parameters, limit)))
    return norms


def gradient_norms(groups: Mapping[str, Sequence[nn.Parameter]]) -> dict[str, float]:
    """The norm of each group's gradients; 0 if it has none."""
    gradients = {
        name: [p.grad for p in parameters if p.grad is not None]
        for name, parameters in groups.items()
    }
    every = [gradient for group in gradients.values() for gradient in group]
    if not every:
        return dict.fromkeys(groups, 0.0)
    # one call for all gradients and one copy to the CPU, instead of one for each parameter
    sizes = torch.stack([size.float() for size in torch._foreach_norm(every)])
    parts = sizes.split([len(group) for group in gradients.values()])
    norms = torch.stack([part.norm() for part in parts])
    return dict(zip(groups, norms.tolist(), strict=True))
