"""Episodes that show half of an instruction of two goals."""

from __future__ import annotations

import json

import pytest

from vla.config import ConfigError, UserError, load_config
from vla.sim_eval.collection.recording import CollectConfig, collect, demonstrate
from vla.sim_eval.envs.tabletop import TabletopConfig

ENV = {
    "type": "tabletop",
    "tasks": ["two-step"],
    "two_step": [["open", "lift"], ["close", "touch"]],
    "cameras": [],
    "state": "scene",
}


def config_of(out, halves, **values) -> CollectConfig:
    base = {
        "env": ENV,
        "out": out,
        "episodes_per_task": 1,
        "workers": 1,
        "actions": "executed",
        "only_successes": False,
        "noise": {"std": 0.0},
    }
    return load_config(CollectConfig, base | {"behaviours": {"halves": halves}} | values)


@pytest.fixture(scope="module")
def env():
    env = TabletopConfig.model_validate(ENV).make("two-step")
    yield env
    env.close()


def first_met(env, state) -> bool:
    numbers = dict(zip(env.robot_spec.state_names, state.tolist(), strict=True))
    return bool(numbers["goal0_met"])


def test_the_second_half_begins_where_the_first_goal_is_met(env, tmp_path):
    config = config_of(tmp_path, {"second": 1.0})
    for seed in (0, 1):
        episode, failure = demonstrate(env, config, seed)
        assert not failure
        assert episode.info["behaviour"] == "second half"
        assert first_met(env, episode.state[0])
        assert len(episode) < 60


def test_the_first_half_ends_there_and_fails(env, tmp_path):
    config = config_of(tmp_path, {"first": 1.0})
    for seed in (0, 1):
        episode, failure = demonstrate(env, config, seed)
        assert failure
        assert not episode.success.any()
        assert episode.terminated
        assert not first_met(env, episode.state[0])
        achieved = json.loads(episode.info["achieved"])
        assert achieved[episode.info["acted"]] == len(episode) - 1


def test_wrong_configs_are_explained(tmp_path):
    with pytest.raises(ConfigError, match=r"behaviours\.halves\.first: needs only_successes: fal"):
        config_of(tmp_path, {"first": 0.5}, only_successes=True)
    with pytest.raises(ConfigError, match=r"mistaken, halves and policies sum to 1\.4"):
        config_of(tmp_path, {"first": 0.7, "second": 0.7})
    env = ENV | {"tasks": ["reach"], "two_step": None}
    with pytest.raises(UserError, match=r"behaviours\.halves\.second: reach asks for one goal"):
        collect(config_of(tmp_path / "x", {"second": 1.0}, env=env))
