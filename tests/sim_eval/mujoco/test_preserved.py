"""Envs are played ahead by their experts and put back to the bit."""

from __future__ import annotations

import numpy as np
import pytest

from vla.sim_eval.env import EnvConfig, SimEnv
from vla.sim_eval.envs.fetch import FetchConfig
from vla.sim_eval.envs.locomotion import LocomotionConfig
from vla.sim_eval.envs.metaworld import MetaworldConfig
from vla.sim_eval.envs.perturbed import PerturbedConfig
from vla.sim_eval.envs.pointmaze import PointMazeConfig
from vla.sim_eval.envs.quadruped import QuadrupedConfig
from vla.sim_eval.envs.tabletop import TabletopConfig
from vla.sim_eval.mujoco.preserved import preserved
from vla.sim_eval.rollouts.expert_labels import expert_chunk, expert_label

STEPS = 12
CONFIGS: dict[str, tuple[EnvConfig, str]] = {
    "tabletop": (TabletopConfig(cameras=["front"], image_size=32), "pick"),
    "fetch": (FetchConfig(), "pick-and-place"),
    "metaworld": (MetaworldConfig(image_size=32), "push"),
    "pointmaze": (PointMazeConfig(), ""),
    "quadruped": (QuadrupedConfig(image_size=32), "go-to"),
    "hopper": (LocomotionConfig(robot="hopper"), ""),
}


def moves(env: SimEnv) -> list[np.ndarray]:
    """Random actions that an expert's step now and then interrupts, so that things are touched."""
    spec = env.robot_spec
    rng = np.random.default_rng(0)
    return list(rng.uniform(spec.action_low, spec.action_high, (STEPS, spec.action_dim)))


def seen(env: SimEnv, *, ahead: int) -> list[np.ndarray]:
    env.reset(seed=3)
    found: list[np.ndarray] = []
    for action in moves(env):
        if ahead:
            with preserved(env):
                for other in moves(env)[:ahead]:
                    env.step(-other)
        observation, reward, *_, info = env.step(action.astype(np.float32))
        found += [observation["state"], np.float64(reward), np.bool_(info["success"])]
        found += list(observation["images"].values())
    return found


@pytest.mark.parametrize("name", CONFIGS)
def test_an_env_goes_on_as_if_nothing_had_been_played(name: str) -> None:
    config, task = CONFIGS[name]
    env = config.make(task or config.suite().tasks[0].name)
    try:
        for undisturbed, preserved_ in zip(seen(env, ahead=0), seen(env, ahead=4), strict=True):
            np.testing.assert_array_equal(undisturbed, preserved_)
    finally:
        env.close()


@pytest.mark.parametrize("name", ["tabletop", "metaworld", "quadruped"])
def test_a_chunk_of_labels_is_what_the_expert_does_next(name: str) -> None:
    config, task = CONFIGS[name]
    env = config.make(task)
    try:
        env.reset(seed=3)
        for action in moves(env)[:3]:
            env.step(action.astype(np.float32))
        chunk, own = expert_chunk(env, expert_label(env), 4)
        assert own == 4
        for action in chunk:
            np.testing.assert_array_equal(action, expert_label(env))
            env.step(action)
    finally:
        env.close()


def test_an_env_that_cannot_be_put_back_says_so() -> None:
    config = PerturbedConfig(
        env=TabletopConfig(cameras=["front"], image_size=32), kind="action_delay", severity=1
    )
    env = config.make("reach")
    try:
        env.reset(seed=0)
        with pytest.raises(RuntimeError, match="cannot be put back"), preserved(env):
            pass
    finally:
        env.close()
