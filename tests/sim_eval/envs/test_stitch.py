"""The maze of two bad halves: what its recordings hold and what they do not."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from vla.config import ConfigError, load_config
from vla.sim_eval.collection.demonstrations import CollectConfig, Demonstrator, Job
from vla.sim_eval.env_contract import check_env
from vla.sim_eval.envs.stitch import GOAL, START, StitchConfig, StitchEnv, wall_cells

CONFIG = Path(__file__).parents[3] / "configs" / "stitching.yaml"


@pytest.mark.parametrize("play", ["whole", "halves"])
def test_it_keeps_the_contract(play: str) -> None:
    env = StitchConfig(play=play).make("stitch")  # type: ignore[arg-type]
    env.render_images = False
    check_env(env)
    env.close()
    with pytest.raises(ConfigError, match=r"no task 'stich'.*'stitch'"):
        StitchConfig().make("stich")


def test_the_expert_knows_the_whole_way() -> None:
    env = StitchConfig().make("stitch")
    for seed in range(5):
        observation, info = env.reset(seed=seed)
        assert np.abs(observation["state"] - START).max() <= 0.25
        steps, reward = 0, 0.0
        while not info["success"]:
            observation, gained, _, truncated, info = env.step(env.expert_action())
            reward = float(gained)
            steps += 1
            assert not truncated
        assert reward == 1.0
        assert 15 < steps < 40
    env.close()


def test_the_ball_stays_between_the_walls_and_slides_along_them() -> None:
    env = StitchConfig().make("stitch")
    assert isinstance(env, StitchEnv)
    walls = np.array(wall_cells())
    rng = np.random.default_rng(0)
    env.reset(seed=0)
    for _ in range(150):
        state = env.step(rng.choice([-1.0, 1.0], 2).astype(np.float32))[0]["state"]
        assert (np.abs(walls - state).max(1) > 0.5).all()
    env.sim.place(1.0, 3.0)
    up_and_right = np.array([1.0, 1.0], np.float32)
    assert env.step(up_and_right)[0]["state"][1] > 3.2
    env.close()


def test_no_recording_goes_from_the_start_to_the_goal_yet_they_meet() -> None:
    config = load_config(CollectConfig, CONFIG, [], section="collect")
    maker = Demonstrator(config)
    task = config.env.suite().tasks[0]
    kinds: Counter[str] = Counter()
    places: dict[str, set[tuple[int, int]]] = {}
    for number in range(40):
        episode = maker(Job(task, number)).episode
        assert episode is not None
        kind = str(episode.info["expert"])
        kinds[kind] += 1
        cells = [tuple(int(i) for i in np.round(state)) for state in episode.state]
        places.setdefault(kind, set()).update(cells)  # type: ignore[arg-type]
        assert (START in cells) == (kind != "in")
        assert (kind == "in") == bool(episode.success.any()) == episode.terminated
        assert GOAL not in cells or kind == "in"
        assert episode.rewards.sum() == float(kind == "in")
        if (
            kind != "in"
        ):  # nobody turns round behind the fork, so that values do not lead back from the dead end
            corridor, way = ((1, 3), 1) if kind == "up" else ((1, 1), -1)
            inside = np.array([cell == corridor for cell in cells[:-1]])
            assert inside.any()
            assert (way * np.diff(episode.state[:, 1])[inside] > 0).all()
    maker.close()
    assert kinds["up"] > kinds["back"] > 0 < kinds["in"]
    assert (1, 0) in places["back"] & places["in"]  # where the two halves meet
    assert not places["up"] & places["in"]
