"""Detours: the expert acts out other instructions for a while, and the data say when."""

from __future__ import annotations

import json

import numpy as np
import pytest

from vla.config import ConfigError, UserError, load_config
from vla.data import EpisodeDataset, Windows
from vla.data.detours import detour_steps, detours_of
from vla.sim_eval.collection.detours import Detours, DetoursConfig
from vla.sim_eval.collection.recording import CollectConfig, collect, demonstrate
from vla.sim_eval.envs.tabletop import TabletopConfig
from vla.training.objective import ObjectiveError
from vla.training.objectives.filtered_bc import FilteredBCConfig

ENV = {
    "type": "tabletop",
    "tasks": ["reach"],
    "cameras": ["front"],
    "image_size": 16,
    "horizon": 200,
}


def config_of(out, detours, **values) -> CollectConfig:
    base = {
        "env": ENV,
        "out": out,
        "episodes_per_task": 4,
        "workers": 1,
        "actions": "executed",
        "noise": {"std": 0.0},
    }
    return load_config(CollectConfig, base | {"behaviours": {"detours": detours}} | values)


@pytest.fixture(scope="module")
def env():
    env = TabletopConfig.model_validate(ENV).make("reach")
    yield env
    env.close()


def test_the_marked_steps_and_no_others_are_of_another_instruction(env):
    """The expert depends on the state alone, so the right action can be asked at every step."""
    env.reset(seed=3)
    config = DetoursConfig(count=(2, 2), steps=(6, 9), between=(4, 6), starts=1.0)
    behaviour = Detours(config, env, np.random.default_rng(0))
    wrong = []
    for _ in range(60):
        action = behaviour.act({}, 0.0, "")
        wrong.append(not np.array_equal(action, env._own_expert.action()))
        env.step(action)
    marked = detour_steps(behaviour.info, 60)
    spans = json.loads(behaviour.info["detours"])
    assert len(spans) == 2
    assert spans[0][0] == 0
    assert all(6 <= stop - first <= 9 for first, stop in spans)
    assert 4 <= spans[1][0] - spans[0][1] <= 6
    np.testing.assert_array_equal(np.array(wrong), marked)


def test_every_episode_is_solved_and_the_dataset_keeps_the_truth(tmp_path):
    collect(config_of(tmp_path / "data", {"count": [1, 2], "starts": 1.0}))
    dataset = EpisodeDataset(tmp_path / "data")
    windows = Windows(dataset, history=1, chunk=1)
    assert dataset.episodes["success"].all()
    marked = detours_of(windows)
    infos = [json.loads(text) for text in dataset.episodes["info"]]
    spans = [json.loads(info["detours"]) for info in infos]
    assert marked.sum() == sum(stop - first for episode in spans for first, stop in episode)
    first = np.cumsum(windows.lengths) - windows.lengths
    assert marked[first].all()  # they begin with one
    assert not marked[first + windows.lengths - 1].any()  # a success is no detour's here
    # whatever subset is read
    part = Windows(EpisodeDataset(tmp_path / "data"), history=1, chunk=1, episodes=[2, 0])
    ends = np.cumsum(windows.lengths)
    wanted = np.concatenate([marked[first[i] : ends[i]] for i in (2, 0)])
    np.testing.assert_array_equal(detours_of(part), wanted)


def test_an_oracle_keeps_what_is_no_detour(tmp_path):
    collect(config_of(tmp_path / "data", {"count": [1, 1]}, episodes_per_task=2))
    windows = Windows(EpisodeDataset(tmp_path / "data"), history=1, chunk=1)
    objective = FilteredBCConfig(keep="not_detours").build(None)
    kept = objective.window_weights(windows)
    np.testing.assert_array_equal(kept == 0, detours_of(windows))
    collect(config_of(tmp_path / "plain", None, episodes_per_task=1))
    plain = Windows(EpisodeDataset(tmp_path / "plain"), history=1, chunk=1)
    with pytest.raises(ObjectiveError, match="marks none; use keep: last"):
        objective.window_weights(plain)


def test_endless_detours_last_to_the_end(env):
    env.reset(seed=5)
    config = DetoursConfig(count=None, steps=(3, 5), between=(2, 4))
    behaviour = Detours(config, env, np.random.default_rng(1))
    for _ in range(150):
        env.step(behaviour.act({}, 0.0, ""))
    marked = detour_steps(behaviour.info, 150)
    assert 0.4 < marked[:75].mean() < 0.75
    assert 0.4 < marked[75:].mean() < 0.75


def test_a_share_of_the_episodes_and_none_of_another_stream(env, tmp_path):
    config = config_of(tmp_path, {"share": 0.5})
    env.render_images = True
    kinds = [demonstrate(env, config, seed)[0].info["behaviour"] for seed in range(8)]
    assert set(kinds) == {"expert", "detours"}


def test_data_without_marks_have_none(tmp_path):
    collect(config_of(tmp_path / "data", None, episodes_per_task=1))
    assert detours_of(Windows(EpisodeDataset(tmp_path / "data"), history=1, chunk=1)) is None
    np.testing.assert_array_equal(detour_steps({}, 3), [False] * 3)


def test_wrong_configs_are_explained(tmp_path):
    with pytest.raises(ConfigError, match=r"steps: 9 to 3 holds no number.*\[3, 9\]"):
        config_of(tmp_path, {"steps": [9, 3]})
    config = config_of(tmp_path / "y", {}, env={"type": "test_point"})
    with pytest.raises(UserError, match=r"behaviours\.detours: red knows no other instruction"):
        collect(config)
