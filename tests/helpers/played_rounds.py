"""Rounds that small policies have just played themselves, as on-policy objectives learn from them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from small_policies import mlp

from vla.config import lookup
from vla.data import Episode
from vla.data.replay.growing_windows import GrowingWindows
from vla.models.policy import Policy
from vla.training.online_rl.policy_gradient import PolicyGradient
from vla.types import Batch, Observation, Spec

SPEC = Spec({}, ("x", "y"), ("a", "grip"), (-1.0, 0.0), (1.0, 1.0), 10.0)
BINS = {"type": "bins", "num_bins": 5, "binary": ["grip"]}
HEADS: dict[str, dict[str, Any]] = {
    "categorical": {"head": {"type": "categorical"}, "tokenizer": BINS},
    "autoregressive": {
        "head": {"type": "autoregressive", "depth": 1, "hidden": 16, "heads": 2},
        "tokenizer": BINS,
    },
    "gaussian": {"head": {"type": "gaussian"}},
    "squashed": {"head": {"type": "gaussian", "squash": "full", "deviation": "state"}},
}
EXECUTED = 2
Reward = Callable[[np.ndarray, np.ndarray], np.ndarray]


def goes_right(state: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """1 for each step to the right."""
    return (actions[:, 0] > 0.2).astype(np.float32)


def play(
    policy: Policy,
    *,
    seed: int,
    episodes: int = 24,
    decisions: int = 2,
    reward: Reward = goes_right,
    group_size: int = 4,
    temperature: float = 1.0,
) -> GrowingWindows:
    """Episodes in which the policy chooses chunks, all of which or less is executed; those of a
    group begin in the same state."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    starts = 3 + rng.normal(size=(episodes // group_size, decisions, 2))
    state_ELS = starts.repeat(group_size, 0).repeat(EXECUTED, 1).astype(np.float32)
    actions_ELA = np.zeros((*state_ELS.shape[:2], policy.spec.action_dim), np.float32)
    for step in range(0, decisions * EXECUTED, EXECUTED):
        texts = ["push the cube"] * episodes
        observation = Observation({}, torch.from_numpy(state_ELS[:, step]), texts)
        with torch.no_grad():
            chunk, _ = policy.act(observation, temperature=temperature)
        actions_ELA[:, step : step + EXECUTED] = chunk[:, :EXECUTED].numpy()
    windows = GrowingWindows(
        policy.spec, history=1, chunk=policy.chunk, extras=["decision", "group"]
    )
    found = []
    steps = np.arange(decisions * EXECUTED)
    for number in range(episodes):
        found.append(
            Episode(
                images={},
                state=state_ELS[number],
                actions=actions_ELA[number],
                rewards=reward(state_ELS[number], actions_ELA[number]),
                success=np.zeros(len(steps), bool),
                terminated=True,
                instruction="push the cube",
                extras={
                    "decision": np.where(steps % EXECUTED == 0, EXECUTED, 0),
                    "group": np.full(len(steps), number // group_size),
                },
            )
        )
    windows.append(found)
    return windows


def policy_of(head: str, **changes: Any) -> Policy:
    return mlp(SPEC, **{"chunk": 3, **HEADS[head], **changes})


def objective_of(name: str, policy: Policy, **options: Any) -> PolicyGradient:
    if name in ("a2c", "ppo", "trpo"):
        options = {"critic": {"hidden": 16}, "value_warmup": 0, **options}
    found = lookup("objectives", name).model_validate({"type": name, **options}).build(policy)
    assert isinstance(found, PolicyGradient)
    return found


def begun(objective: PolicyGradient, policy: Policy, windows: GrowingWindows) -> Batch:
    """The decisions of a round that was begun."""
    objective.fit(windows)
    windows.columns = objective.begin_round(policy, windows)
    return windows.batch(np.flatnonzero(objective.window_weights(windows)))
