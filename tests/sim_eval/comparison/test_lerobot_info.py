"""`eval_info.json` against what lerobot 0.4.4 writes: keys, percentages and orders."""

import json

import pytest

from vla.sim_eval.comparison.lerobot_info import eval_info
from vla.sim_eval.comparison.results import Results
from vla.sim_eval.rollouts.jobs import EpisodeRecord


def record(task, group, episode, *, solved, rewards, video=""):
    return EpisodeRecord(
        task=task,
        group=group,
        episode=episode,
        seed=episode,
        instruction="do it",
        success_ever=solved,
        success_at_end=False,
        steps=len(rewards),
        return_=float(sum(rewards)),
        failure="" if solved else "no grasp",
        video=video,
        max_reward=max(rewards),
    )


RESULTS = Results(
    policy="p",
    suite="s",
    episodes=(
        record("b", "easy", 0, solved=True, rewards=[0.0, 1.0], video="videos/b-000.mp4"),
        record("b", "easy", 1, solved=False, rewards=[-1.0, -0.5]),
        record("a", "hard", 0, solved=False, rewards=[0.25]),
        record("c", "easy", 0, solved=True, rewards=[1.0, 1.0]),
    ),
    seconds=10.0,
)


def test_by_hand():
    found = eval_info(RESULTS.tasks, RESULTS.groups, RESULTS.seconds)
    assert [(each["task_group"], each["task_id"]) for each in found["per_task"]] == [
        ("easy", 0),
        ("hard", 1),
        ("easy", 2),
    ]
    assert found["per_task"][0]["metrics"] == {
        "sum_rewards": [1.0, -1.5],
        "max_rewards": [1.0, -0.5],
        "successes": [True, False],
        "video_paths": ["videos/b-000.mp4"],
    }
    assert found["per_group"]["easy"] == {
        "avg_sum_reward": pytest.approx(0.5),
        "avg_max_reward": pytest.approx(0.5),
        "pc_success": pytest.approx(200 / 3),
        "n_episodes": 3,
        "video_paths": ["videos/b-000.mp4"],
    }
    assert found["overall"] == {
        "avg_sum_reward": pytest.approx(1.75 / 4),
        "avg_max_reward": pytest.approx(1.75 / 4),
        "pc_success": 50.0,
        "n_episodes": 4,
        "eval_s": 10.0,
        "eval_ep_s": 2.5,
        "video_paths": ["videos/b-000.mp4"],
    }


def test_it_is_written_beside_the_results(tmp_path):
    RESULTS.save(tmp_path)
    written = json.loads((tmp_path / "eval_info.json").read_text())
    assert set(written) == {"per_task", "per_group", "overall"}
    assert written["overall"]["pc_success"] == 50.0
    loaded = Results.load(tmp_path)
    assert loaded.episodes == RESULTS.episodes
    again = eval_info(loaded.tasks, loaded.groups, loaded.seconds)
    assert again == written


def test_results_of_before_say_no_greatest_reward():
    import dataclasses

    records = [dataclasses.replace(each, max_reward=None) for each in RESULTS.episodes]
    results = dataclasses.replace(RESULTS, episodes=tuple(records))
    found = eval_info(results.tasks, results.groups, results.seconds)
    assert found["overall"]["avg_max_reward"] is None
    assert found["per_task"][1]["metrics"]["max_rewards"] == [None]
