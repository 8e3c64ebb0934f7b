"""The replay of a training up to a medium policy: what `configs/locomotion_medium_replay.yaml` collects."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from vla.config import dump_config, load_config
from vla.data import EpisodeDataset
from vla.sim_eval.collection.recording import CollectConfig, collect
from vla.sim_eval.envs.locomotion import LocomotionConfig

CONFIG = Path(__file__).parents[3] / "configs" / "locomotion_medium_replay.yaml"
PUBLISHED = Path(__file__).parents[4] / "shared" / "data" / "policies"


def test_the_config_survives_a_round_trip(tmp_path: Path) -> None:
    config = load_config(CollectConfig, CONFIG, section="collect")
    saved = tmp_path / "collect.yaml"
    saved.write_text(dump_config(config))
    assert load_config(CollectConfig, saved) == config


@pytest.mark.skipif(not PUBLISHED.exists(), reason=f"{PUBLISHED} is absent: published snapshots")
@pytest.mark.parametrize("robot", ["hopper", "walker2d"])
def test_a_replay_mixes_the_first_snapshots_and_holds_what_was_executed(
    tmp_path: Path, robot: str
) -> None:
    out = tmp_path / "replay"
    overrides = [
        f"env.robot={robot}",
        f"env.behaviour.path={PUBLISHED}",
        f"out={out}",
        "episodes_per_task=12",
    ]
    collect(load_config(CollectConfig, CONFIG, [*overrides, "workers=1"], section="collect"))
    dataset = EpisodeDataset(out)
    infos = [json.loads(info) for info in dataset.episodes["info"]]
    actors = [info["expert"] for info in infos]
    assert set(actors) <= {f"snapshot {i}" for i in range(4)}
    assert len(set(actors)) >= 3
    returns = dataset.episodes["return"].groupby(actors).mean()
    assert returns.is_monotonic_increasing  # in the order of the training

    # the recorded actions lead from the recorded start to the recorded rewards and states
    shortest = int(dataset.episodes["length"].argmin())
    episode, env = dataset.episode(shortest), LocomotionConfig(robot=robot).make(robot)
    observation, _ = env.reset(seed=infos[shortest]["seed"])
    for state, action, reward in zip(episode.state, episode.actions, episode.rewards, strict=True):
        np.testing.assert_allclose(observation["state"], state, rtol=1e-5, atol=1e-6)
        observation, gained, terminated, _, _ = env.step(action)
        assert gained == pytest.approx(float(reward), rel=1e-5, abs=1e-6)
    assert terminated
    assert episode.terminated
    env.close()
