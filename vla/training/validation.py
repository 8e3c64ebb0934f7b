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
from vla.training.config import TrainConfig
from vla.training.objective import Objective
from vla.training.run_data.batches import seed_of, to_device
from vla.training.run_data.opening import RunData


def build_scorer(
    config: TrainConfig,
    data: RunData,
    objective: Objective,
    accelerator: Accelerator,
    *,
    bf16: bool,
) -> Callable[[Policy], dict[str, float]] | None:
    """A function that scores a policy on the held-out windows; None where validation is off.

    Of several robots each is scored by itself, `validation/NAME/...`; `validation/loss` is their mean by their shares.
    """
    if not data.held_out or config.validate_every is None:
        return None
    size = max(1, config.batch_size // (accelerator.num_processes * config.grad_accumulation))

    def score(policy: Policy, windows: Windows) -> dict[str, float]:
        limit = config.data.validation_windows
        indices = _spread(len(windows), limit and max(1, limit // len(data.held_out)))
        return validate(
            policy,
            objective,
            windows,
            indices,
            accelerator,
            batch_size=size,
            seed=config.seed,
            bf16=bf16,
        )

    def score_robots(policy: Policy) -> dict[str, float]:
        assert isinstance(policy, MultiRobotPolicy)
        assert data.mixture
        found = {"validation/loss": 0.0}
        for name, windows in data.held_out.items():
            scores = score(policy.part(name), windows)
            found["validation/loss"] += data.mixture.shares[name] * scores["validation/loss"]
            found |= {
                key.replace("validation/", f"validation/{name}/", 1): value
                for key, value in scores.items()
            }
        return found

    return score_robots if data.mixture else lambda policy: score(policy, data.held_out[""])


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
    """Means of `objective.validate` over the windows `indices`, which the processes share out among them.

    The policy is expected in eval mode; the objective is put into it meanwhile, so that looking at held-out data changes
    nothing of what is learned. The result, `validation/...`, is the same on all processes.
    """
    rank, device = accelerator.process_index, accelerator.device
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
            for name, value in {**metrics, "": torch.ones_like(weight)}.items():
                values.setdefault(name, []).append(float(value.float() * weight))
    finally:
        objective.train(was_training)
    parts: list[dict[str, list[float]]] = gather_object([values])
    names = dict.fromkeys(name for part in parts for name in part)
    totals = {name: math.fsum(v for part in parts for v in part.get(name, [])) for name in names}
    count = totals.pop("")
    return {f"validation/{name}": total / count for name, total in totals.items()}


def _spread(count: int, limit: int | None) -> np.ndarray:
    """At most `limit` of the indices below `count`, evenly spread over them."""
    if limit is None or limit >= count:
        return np.arange(count)
    return np.linspace(0, count - 1, limit).round().astype(np.int64)
