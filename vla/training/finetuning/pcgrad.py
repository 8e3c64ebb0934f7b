"""Gradients of several tasks that do not work against each other: PCGrad.

Yu et al. 2020, "Gradient Surgery for Multi-Task Learning", algorithm 1.

K tasks, P parameters in one row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from jaxtyping import Float
from torch import Tensor, nn

from vla.config import ConfigError
from vla.data import EpisodeDataset
from vla.data.episode import read_info
from vla.data.loading.multi_robot import RobotBatch
from vla.training.metrics import Stopwatch
from vla.training.objective import Learner, Objective
from vla.training.step import GlobalMeans, clip_gradients, shares_of, sum_over_processes


def project_conflicts(
    gradients_KP: Float[Tensor, "K P"],
    rng: np.random.Generator,
) -> tuple[Float[Tensor, " P"], float]:
    """The sum of the tasks' gradients without conflicts; and the share of pairs that oppose.

    Task by task, the other tasks in random order: if the inner product with a task's own gradient
    is negative, the component along it is taken away. Without conflicts it is the plain sum.
    """
    K = len(gradients_KP)
    # a matrix product could be computed in TF32, and the signs of small products would be chance
    rows = [(gradients_KP * other_P).sum(1) for other_P in gradients_KP]
    products_KK = torch.stack(rows)
    total_P = gradients_KP.sum(0)
    conflicts = int((products_KK < 0).sum())
    for task in range(K) if conflicts else ():
        change_K = _projection(products_KK, task, rng)
        total_P = total_P + (change_K[:, None] * gradients_KP).sum(0)
    return total_P, conflicts / max(K * (K - 1), 1)


def _projection(
    products_KK: Float[Tensor, "K K"],
    task: int,
    rng: np.random.Generator,
) -> Float[Tensor, " K"]:
    """What the projection adds to a task's gradient, as factors of all tasks' gradients."""
    # the projected gradient stays a combination, g_task + sum of c_j g_j: its inner products follow
    # from those of the tasks, and no vector of P numbers is touched
    own_K = torch.zeros_like(products_KK[0])
    own_K[task] = 1
    others = [other for other in range(len(products_KK)) if other != task]
    for other in rng.permutation(others).tolist():
        product = own_K @ products_KK[other]
        if product < 0:
            own_K[other] -= product / products_KK[other, other]
    own_K[task] -= 1
    return own_K


def task_names(datasets: Iterable[EpisodeDataset]) -> dict[str, str]:
    """Instruction -> the task that it is a wording of, as far as the datasets say so.

    Collected episodes note their task, of which there may be hundreds of wordings. An instruction
    that stands with several tasks (by hindsight, say) is of the one it stands with most often.
    """
    counts: dict[str, Counter[str]] = {}
    for dataset in datasets:
        held = dataset.held_tasks
        infos = dataset.episodes["info"].iloc[held["episode_index"]]
        for index, info in zip(held["task_index"], infos, strict=True):
            task = read_info(info).get("task")
            if isinstance(task, str) and task:
                counts.setdefault(dataset.instructions[index], Counter())[task] += 1
    # sorted: a tie must not depend on the order of the datasets
    return {text: max(sorted(found), key=found.__getitem__) for text, found in counts.items()}


def check_projection(learner: nn.Module, processes: int) -> None:
    """Raises ConfigError if tasks cannot have a backward pass of their own.

    Batch norm that is synchronised over processes waits for all of them, but not all have every
    task in their batches.
    """
    if processes == 1:
        return
    for module in learner.modules():
        if isinstance(module, nn.SyncBatchNorm) and module.training:
            raise ConfigError(
                [
                    "optim.project_gradients: batch norm is synchronised over the GPUs; use one "
                    "process, or policy.norm: group"
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
    clip: float | Mapping[str, float | None] | None,
    seed: int,
    tasks: Mapping[str, str] | None = None,
) -> dict[str, float]:
    """As `vla.training.step.backward`, with the conflicts of the global batch's tasks projected.

    A task is what `tasks` calls an instruction, or the instruction itself. Every task's gradient is
    summed over micro-batches and processes before anything is projected; the parameters of the
    policy and of the objective are two rows that are projected each by itself. What an objective
    takes from a whole batch, and batch norm, it takes here from the windows of one task.

    Args:
        seed: of the order in which tasks are compared; the same on all processes.
        tasks: instruction -> name of its task (`task_names`); the same on all processes.

    Returns:
        Those of `backward`, and: `tasks`; `conflicts`, the share of pairs of tasks whose gradients
        of the policy oppose.
    """
    learner = accelerator.unwrap_model(model)
    assert isinstance(learner, Learner)
    parts = [part for batch in batches for part in _by_task(batch, tasks or {})]
    # as in `backward`: the mean over the global batch by weight, however it is divided into tasks
    shares = shares_of(objective, [batch for _, batch in parts], accelerator)
    # all processes go through the same tasks in the same order: each waits for the others' sums
    names = sorted(set(gather_object([task for task, _ in parts])))
    rows = [
        [p for p in module.parameters() if p.requires_grad]
        for module in (learner.policy, objective)
    ]
    gradients: list[list[Tensor]] = [[], []]
    used: set[nn.Parameter] = set()
    means = GlobalMeans(learner.policy.robot_names)
    for task in names:
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
    conflicts = [
        _project_row(row, collected, used, accelerator, np.random.default_rng([seed, number]))
        for number, (row, collected) in enumerate(zip(rows, gradients, strict=True))
    ]
    norms = clip_gradients(learner, objective, accelerator, clip)
    watch.lap("backward")
    numbers = means.over_processes(accelerator)
    return numbers | norms | {"tasks": float(len(names)), "conflicts": conflicts[0]}


def _project_row(
    row: Sequence[nn.Parameter],
    gradients: Sequence[Tensor],
    used: set[nn.Parameter],
    accelerator: Accelerator,
    rng: np.random.Generator,
) -> float:
    """Gives the parameters of a row the projected gradient; returns the share of conflicts."""
    if not row:
        return 0.0
    total_P, share = project_conflicts(torch.stack(list(gradients)), rng)
    # a parameter may have been used on another process alone
    used_here = torch.tensor([float(p in used) for p in row], device=total_P.device)
    used_anywhere = sum_over_processes(used_here, accelerator) > 0
    _write(row, total_P, used_anywhere.tolist())
    return share


def _by_task(micro_batch: RobotBatch, tasks: Mapping[str, str]) -> Iterator[tuple[str, RobotBatch]]:
    robot, batch = micro_batch
    names = [tasks.get(text, text) for text in batch.instruction]
    for task in dict.fromkeys(names):
        of_task = [name == task for name in names]
        yield task, RobotBatch(robot, batch.select(np.flatnonzero(of_task)))


def _flat(row: Sequence[nn.Parameter]) -> Float[Tensor, " P"]:
    parts = []
    for parameter in row:
        gradient = parameter.grad
        if gradient is None:
            # this task's loss does not depend on it: no gradient opposes nothing
            gradient = torch.zeros_like(parameter)
        parts.append(gradient.float().flatten())
    return torch.cat(parts)


def _write(row: Sequence[nn.Parameter], total_P: Tensor, used: Sequence[bool]) -> None:
    """The gradients of a row; parameters that no task uses keep none.

    So the optimiser leaves them alone: a gradient of zeros would still decay their weights.
    """
    sizes = [parameter.numel() for parameter in row]
    parts = zip(row, total_P.split(sizes), used, strict=True)
    for parameter, values, is_used in parts:
        parameter.grad = None
        if is_used:
            gradient = torch.empty_like(parameter)
            parameter.grad = gradient.copy_(values.view(parameter.shape))


__all__ = ["check_projection", "project_conflicts", "projected_backward", "task_names"]
