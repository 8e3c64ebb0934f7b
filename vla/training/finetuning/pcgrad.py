"""Gradients of several tasks that do not work against each other (Yu et al. 2020, "Gradient Surgery for Multi-Task
Learning", algorithm 1: PCGrad).

K tasks, P parameters in one row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from jaxtyping import Float
from torch import Tensor, nn

from vla.config import ConfigError
from vla.data.loading.multi_robot import RobotBatch
from vla.training.metrics import Stopwatch
from vla.training.objective import Learner, Objective
from vla.training.step import GlobalMeans, clip_gradients, shares_of, sum_over_processes


def project_conflicts(
    gradients_KP: Float[Tensor, "K P"], rng: np.random.Generator
) -> tuple[Float[Tensor, " P"], float]:
    """The sum of the tasks' gradients, each first freed of what opposes another's; and the share of pairs that oppose.

    Task by task, the other tasks in random order: where the inner product with a task's own gradient is negative, the
    component along it is taken away. Without conflicts it is the plain sum.
    """
    K = len(gradients_KP)
    products_KK = torch.stack(
        [(gradients_KP * other_P).sum(1) for other_P in gradients_KP]
    )  # no TF32: signs matter
    total_P = gradients_KP.sum(0)
    conflicts = int((products_KK < 0).sum())
    for task in range(K) if conflicts else ():
        # the projected gradient stays a combination of all: g_task + sum of c_j g_j, so that inner products are known
        own_K = torch.zeros_like(products_KK[0])
        own_K[task] = 1
        for other in rng.permutation([k for k in range(K) if k != task]).tolist():
            product = own_K @ products_KK[other]
            if product < 0:
                own_K[other] -= product / products_KK[other, other]
        own_K[task] -= 1
        total_P = total_P + (own_K[:, None] * gradients_KP).sum(0)
    return total_P, conflicts / max(K * (K - 1), 1)


def check_projection(learner: nn.Module, processes: int) -> None:
    """Raises ConfigError where tasks cannot have a backward pass of their own: batch norm that is synchronised over
    processes waits for all of them, but not all have every task in their batches."""
    if processes > 1 and any(
        isinstance(m, nn.SyncBatchNorm) and m.training for m in learner.modules()
    ):
        raise ConfigError(
            [
                "optim.project_gradients: batch norm is synchronised over the GPUs; use one process, or policy.norm: group"
            ]
        )


def projected_backward(
    model: nn.Module,
    objective: Objective,
    batches: Sequence[RobotBatch],
    accelerator: Accelerator,
    watch: Stopwatch,
    *,
    bf16: bool,
    clip: float | None,
    seed: int,
) -> dict[str, float]:
    """As `vla.training.step.backward`, with the conflicts of the tasks (instructions) of the global batch projected.

    Every task's gradient is summed over micro-batches and processes before anything is projected; the parameters of the
    policy and of the objective are two rows that are projected each by itself. What an objective takes from a whole batch,
    and batch norm, it takes here from the windows of one task.

    Args:
        seed: of the order in which tasks are compared; the same on all processes.

    Returns:
        Beside those of `backward`: `tasks`, and `conflicts`, the share of pairs of tasks whose gradients of the policy oppose.
    """
    learner = accelerator.unwrap_model(model)
    assert isinstance(learner, Learner)
    parts = [part for batch in batches for part in _by_task(batch)]
    shares = shares_of(objective, [batch for _, batch in parts], accelerator)
    tasks = sorted(set(gather_object([task for task, _ in parts])))
    rows = [
        [p for p in module.parameters() if p.requires_grad]
        for module in (learner.policy, objective)
    ]
    gradients: list[list[Tensor]] = [[], []]
    used: set[nn.Parameter] = set()
    means = GlobalMeans(learner.policy.robot_names)
    for task in tasks:
        learner.zero_grad()
        for (name, (robot, part)), share in zip(parts, shares, strict=True):
            if name != task:
                continue
            with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=bf16):
                loss, _, metrics = learner(part, robot=robot)
            watch.lap("forward")
            accelerator.backward(loss * share)
            watch.lap("backward")
            means.add({"loss": loss, **metrics}, share, robot)
        for row, collected in zip(rows, gradients, strict=True):
            used.update(p for p in row if p.grad is not None)
            if row:
                collected.append(sum_over_processes(_flat(row), accelerator))
    conflicts = 0.0
    for number, (row, collected) in enumerate(zip(rows, gradients, strict=True)):
        if row:
            total_P, share_of_pairs = project_conflicts(
                torch.stack(collected), np.random.default_rng([seed, number])
            )
            anywhere = sum_over_processes(
                torch.tensor([float(p in used) for p in row], device=total_P.device), accelerator
            )
            _write(row, total_P, (anywhere > 0).tolist())
            conflicts = share_of_pairs if number == 0 else conflicts
    norms = clip_gradients(learner, objective, accelerator, clip)
    watch.lap("backward")
    return (
        means.over_processes(accelerator)
        | norms
        | {"tasks": float(len(tasks)), "conflicts": conflicts}
    )


def _by_task(micro_batch: RobotBatch) -> Iterator[tuple[str, RobotBatch]]:
    robot, batch = micro_batch
    for task in dict.fromkeys(batch.instruction):
        rows = np.flatnonzero([text == task for text in batch.instruction])
        yield task, RobotBatch(robot, batch.select(rows))


def _flat(row: Sequence[nn.Parameter]) -> Float[Tensor, " P"]:
    return torch.cat(
        [(torch.zeros_like(p) if p.grad is None else p.grad).float().flatten() for p in row]
    )


def _write(row: Sequence[nn.Parameter], total_P: Tensor, used: Sequence[bool]) -> None:
    """The gradients of a row; parameters that no task uses keep none, so that the optimiser leaves them alone."""
    for p, values, use in zip(row, total_P.split([p.numel() for p in row]), used, strict=True):
        p.grad = torch.empty_like(p).copy_(values.view(p.shape)) if use else None


__all__ = ["check_projection", "project_conflicts", "projected_backward"]
