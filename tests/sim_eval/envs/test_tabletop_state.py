"""The tabletop's scene as numbers, and compositions that are chosen."""

from __future__ import annotations

import numpy as np
import pytest

from vla.config import ConfigError, load_config
from vla.sim_eval.envs.tabletop import TabletopConfig


def env_of(**values):
    config = TabletopConfig(cameras=(), state="scene", **values)
    return config.make(config.tasks[0])


def numbers_of(env, observation):
    return dict(zip(env.robot_spec.state_names, observation["state"].tolist(), strict=True))


def test_the_state_says_where_everything_is_and_what_is_asked():
    env = env_of(tasks=("push",))
    try:
        observation, _ = env.reset(seed=3)
        found = numbers_of(env, observation)
        assert observation["images"] == {}
        assert found["goal0_push"] == 1.0
        assert found["goal0_touch"] == found["goal1_push"] == 0.0
        slot = env.command.goals[0].thing
        away = env.table.position(slot) - env.table.hand
        thing = [found[f"goal0_thing_{axis}"] for axis in "xyz"]
        np.testing.assert_allclose(thing, away, atol=1e-6)
        direction = [found["goal0_to_x"], found["goal0_to_y"]]
        assert np.abs(direction).sum() == 1.0
        assert found["goal0_met"] == 0.0
        success = False
        while not success:
            observation, _, _, _, info = env.step(env.expert_action())
            success = info["success"]
        assert numbers_of(env, observation)["goal0_met"] == 1.0
        assert env.render().shape == (96, 96, 3)
    finally:
        env.close()


@pytest.mark.parametrize("family", ["reach", "place", "stack", "close-drawer", "sort", "two-step"])
def test_every_family_has_a_state(family):
    env = env_of(tasks=(family,))
    try:
        observation, _ = env.reset(seed=1)
        assert observation["state"].shape == (env.robot_spec.state_dim,)
        assert np.isfinite(observation["state"]).all()
    finally:
        env.close()


def test_compositions_are_those_that_were_asked_for():
    env = env_of(tasks=("two-step",), two_step=(("open", "lift"), ("close", "touch")))
    try:
        seen = set()
        for seed in range(12):
            env.reset(seed=seed)
            seen.add(tuple(goal.kind for goal in env.command.goals))
        assert seen == {("open", "lift"), ("close", "touch")}
    finally:
        env.close()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"cameras": []}, "set state: scene"),
        ({"two_step": [["open", "close"]]}, r"\[open, close\] is no composition; there are \[put"),
        ({"two_step": [["open", "lift"]]}, "while the drawer is open; add a composition without"),
    ],
)
def test_wrong_configs_are_explained(values, message):
    with pytest.raises(ConfigError, match=message):
        load_config(TabletopConfig, values)
