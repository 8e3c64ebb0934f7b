"""Scores on held-out episodes."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, set_seed

from vla.data import Windows
from vla.models.policies.multi_robot import MultiRobotPolicy
from vla.models.policy import Policy
from vla.training.objective import Objective
from vla.training.run_data.batches import to_device
from vla.training.run_data.drawing import BatchPlan
from vla.training.run_data.opening import RunData
from vla.training.seeding import seed_of

Scorer = Callable[[Policy], dict[str, float]]


def build_scorer(
    data: RunData,
    plan: BatchPlan,
    objective: Objective,
    accelerator: Accelerator,
    *,
    max_windows: int | None,
    bf16: bool,
) -> Scorer | None:
    """A function that scores a policy on the held-out windows; None if nothing is held out.

    Of several robots each is scored by itself, `validation/NAME/...`; `validation/loss` is their
    mean by their shares.

    Args:
        max_windows: at most this many are scored, evenly spread over all; None scores all.
    """
    if not data.held_out:
        return None
    # at least one of each robot
    limit = None if max_windows is None else max(1, max_windows // len(data.held_out))

    def score(policy: Policy, windows: Windows) -> dict[str, float]:
        return validate(
            policy,
            objective,
            windows,
            _spread(len(windows), limit),
            accelerator,
            batch_size=plan.micro_batch_size,
            seed=plan.seed,
            bf16=bf16,
        )

    if data.robots is None:
        windows_of_one = data.held_out[""]
        return lambda policy: score(policy, windows_of_one)
    shares = data.robots.shares

    def score_robots(policy: Policy) -> dict[str, float]:
        assert isinstance(policy, MultiRobotPolicy)
        total = 0.0
        found: dict[str, float] = {}
        for name, windows in data.held_out.items():
            scores = score(policy.part(name), windows)
            total += shares[name] * scores["validation/loss"]
            for key, value in scores.items():
                found[key.replace("validation/", f"validation/{name}/", 1)] = value
        return {"validation/loss": total, **found}

    return score_robots


@torch.no_grad()
def validate(
    policy: Policy,
    objective: Objective,
    windows: Windows,
    indices: np.ndarray,
    accelerator: Accelerator,
    *,
    batch_size: int,
    seed: int,
    bf16: bool,
) -> dict[str, float]:
    """Means of `objective.validate` over the windows `indices`, divided among processes.

    The policy is expected in eval mode; the objective is put into it meanwhile, so that looking at
    held-out data changes nothing of what is learned. The result, `validation/...`, is the same on
    all processes.
    """
    rank = accelerator.process_index
    device = accelerator.device
    # sampled actions are the same at each validation; the next training step is seeded again
    set_seed(seed_of(seed, rank))
    own = indices[rank :: accelerator.num_processes]
    values: dict[str, list[float]] = {}
    was_training = objective.training
    objective.eval()
    try:
        for start in range(0, len(own), batch_size):
            batch = to_device(windows.batch(own[start : start + batch_size]), device)
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                metrics = objective.validate(policy, batch)
            weight = objective.weight(batch)
            for name, value in metrics.items():
                values.setdefault(name, []).append(float(value.float() * weight))
            values.setdefault(_WEIGHT, []).append(float(weight))
    finally:
        objective.train(was_training)
    return _over_processes(values)


_WEIGHT = ""
"""Stands among the names of metrics for what the means divide by."""


def _over_processes(values: dict[str, list[float]]) -> dict[str, float]:
    """The means of all processes' batches out of (mean * weight) of each; `validation/NAME`."""
    # of objects, for a process with fewer windows than others may have nothing
    parts: list[dict[str, list[float]]] = gather_object([values])
    names = dict.fromkeys(name for part in parts for name in part)
    totals = {}
    for name in names:
        # fsum rounds once, at the end: the sum does not depend on its order
        totals[name] = math.fsum(value for part in parts for value in part.get(name, []))
    count = totals.pop(_WEIGHT)
    return {f"validation/{name}": total / count for name, total in totals.items()}


def _spread(count: int, limit: int | None) -> np.ndarray:
    """At most `limit` of the indices below `count`, evenly spread over them."""
    if limit is None or limit >= count:
        return np.arange(count)
    return np.linspace(0, count - 1, limit).round().astype(np.int64)


__all__ = ["Scorer", "build_scorer", "validate"]
