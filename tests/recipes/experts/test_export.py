"""The hard cases of carrying an actor over: scales, batch norms, grids of several dimensions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vla.config import ConfigError, load_config
from vla.recipes.experts.actions import GridActions, RangeActions
from vla.recipes.experts.actors import ExpertError, policy_of
from vla.recipes.experts.algorithms import architecture, build_model
from vla.recipes.experts.config import AlgorithmName, ExpertConfig
from vla.recipes.experts.equality import TOLERANCE, check_equal
from vla.recipes.experts.scaling import scaled_env
from vla.types import Spec

pytest.importorskip("stable_baselines3")
pytest.importorskip("sb3_contrib")

SPEC = Spec({}, ("a", "b", "c"), ("x", "y"), (-1.0, 0.0), (3.0, 0.5), control_hz=10)
"""Two actions, of different ranges, neither around 0."""


class StillEnv:
    """Spaces of `SPEC` as a vectorised env; nothing moves."""

    def __new__(cls, actions: Any) -> Any:
        from gymnasium import Env, spaces
        from stable_baselines3.common.vec_env import DummyVecEnv

        class Still(Env[np.ndarray, Any]):
            observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
            action_space = actions.space

            def reset(self, **_: Any) -> tuple[np.ndarray, dict[str, Any]]:
                return np.zeros(3, np.float32), {}

        return DummyVecEnv([Still])


def states_of(seed: int = 0) -> np.ndarray:
    """A dimension of unit size, one that hardly varies far from 0, one of thousands."""
    rng = np.random.default_rng(seed)
    columns = [
        rng.normal(size=1000),
        np.full(1000, 0.42) + 1e-7 * rng.normal(size=1000),
        2000 + 500 * rng.normal(size=1000),
    ]
    return np.stack(columns, axis=1).astype(np.float32)


def model_of(
    algorithm: AlgorithmName, **values: Any
) -> tuple[Any, ExpertConfig, RangeActions | GridActions]:
    """A model whose weights are random and large, over states that are scaled."""
    env = {"type": "locomotion", "robot": "inverted-pendulum"}
    base = {"env": env, "out": "x", "algorithm": algorithm, "hidden": 32, "steps": 100, "bins": 5}
    config = load_config(ExpertConfig, base | values)
    discrete = algorithm in ("dqn", "qrdqn")
    actions = GridActions(SPEC, config.bins, algorithm) if discrete else RangeActions(SPEC)
    venv = scaled_env(StillEnv(actions), states=True, rewards=False, gamma=0.99)
    for rows in states_of().reshape(10, 100, 3):
        venv.obs_rms.update(rows)
    model = build_model(config, venv)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in model.policy.state_dict().items():
            if name.endswith("ra_var"):
                value.copy_(torch.rand(value.shape, generator=generator) + 0.1)
            elif value.is_floating_point():
                value.add_(0.3 * torch.randn(value.shape, generator=generator))
    if algorithm == "ars":
        torch.nn.init.normal_(model.policy.action_net[0].weight)
    return model, config, actions


@pytest.mark.parametrize(
    ("algorithm", "values"),
    [
        ("dqn", {}),
        ("qrdqn", {"bins": 3}),
        ("td3", {"activation": "tanh", "depth": 3}),
        ("sac", {}),
        ("tqc", {"depth": 1}),
        ("crossq", {}),
        ("ppo", {"activation": "relu"}),
        ("ars", {}),
        ("ars", {"depth": 1}),
    ],
)
def test_actions_are_equal_for_scaled_states(
    algorithm: AlgorithmName, values: dict[str, Any]
) -> None:
    model, config, actions = model_of(algorithm, **values)
    states = states_of(1)
    policy = policy_of(model, algorithm, architecture(config), SPEC, actions, states)
    assert check_equal(model, policy, actions, states) <= TOLERANCE
    # the same action everywhere would prove nothing
    chosen, _ = model.predict(model.env.normalize_obs(states), deterministic=True)
    assert len(np.unique(actions.to_robot(chosen), axis=0)) > 3


@pytest.mark.parametrize("algorithm", ["sac", "dqn"])
def test_a_policy_that_acts_otherwise_is_refused(algorithm: AlgorithmName) -> None:
    model, config, actions = model_of(algorithm)
    states = states_of(1)
    policy = policy_of(model, algorithm, architecture(config), SPEC, actions, states)
    with torch.no_grad():
        policy.trunk[0].weight.mul_(1.05)
    with pytest.raises(ExpertError, match="it is not saved"):
        check_equal(model, policy, actions, states)


def test_weights_that_are_not_finite_are_refused() -> None:
    model, config, actions = model_of("td3")
    with torch.no_grad():
        model.actor.mu[0].weight[0, 0] = torch.nan
    with pytest.raises(ExpertError, match="td3: the weights have become NaN or huge by step 0"):
        policy_of(model, "td3", architecture(config), SPEC, actions, states_of())


def test_the_grid_reaches_the_limits() -> None:
    grid = GridActions(SPEC, 3, "dqn")
    assert grid.space.n == 9
    assert grid.to_robot(np.array([0, 5, 8])).tolist() == [[-1.0, 0.0], [1.0, 0.5], [3.0, 0.5]]


def test_a_grid_of_too_many_actions_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"the 40\^2 combinations .* set bins=31 or less, or use"):
        GridActions(SPEC, 40, "qrdqn")


def test_the_range_is_that_of_the_spec() -> None:
    found = RangeActions(SPEC).to_robot(np.array([[-1.0, 1.0], [0.0, 0.0], [9.0, -9.0]]))
    assert found.tolist() == [[-1.0, 0.5], [1.0, 0.25], [3.0, 0.0]]


def test_linear_policies_are_linear(tmp_path: Path) -> None:
    """One hidden layer of max(x, 0) and max(-x, 0) has x as its difference."""
    model, config, actions = model_of("ars")
    policy = policy_of(model, "ars", architecture(config), SPEC, actions, states_of())
    weight = model.policy.action_net[0].weight.detach()
    state = states_of(2)[:5]
    hidden = policy.trunk(policy.normalised_state(torch.from_numpy(state)))
    linear = policy.normalised_state(torch.from_numpy(state)) @ weight.T
    assert torch.allclose(policy.head.out(hidden), linear, atol=1e-4)
    policy.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
