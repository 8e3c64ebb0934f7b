import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from vla.config import ConfigError, dump_config, load_config
from vla.data import DataError, EpisodeDataset
from vla.sim_eval.collection.recording import (
    CollectConfig,
    CollectError,
    Demonstrator,
    Job,
    Noise,
    NoiseConfig,
    collect,
)
from vla.sim_eval.envs.metaworld import MetaworldConfig, MetaworldEnv
from vla.sim_eval.rollouts.seeding import episode_seed
from vla.sim_eval.workers.job_pool import WorkerError
from vla.types import Spec

SPEC = Spec({}, (), ("x", "gripper"), (-1.0, -2.0), (1.0, 2.0), 10.0)


def config_of(out, tasks=("door-close", "reach"), **values):
    env = {"type": "metaworld", "tasks": tasks, "image_size": 16, "horizon": 120}
    return load_config(
        CollectConfig, {"env": env, "out": out, "episodes_per_task": 2, "workers": 1} | values
    )


def contents(out):
    dataset = EpisodeDataset(out)
    return [dataset.episode(i) for i in range(len(dataset))]


def assert_equal(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert (a.info, a.instruction, a.terminated) == (b.info, b.instruction, b.terminated)
        for name in ("state", "actions", "rewards", "success"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        assert a.png("corner2") == b.png("corner2")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return collect(config_of(tmp_path_factory.mktemp("collect") / "dataset"))


# --- what is in a dataset ---------------------------------------------------------------------------


def test_episodes_end_at_the_first_success(made):
    episodes = contents(made)
    assert len(episodes) == 4
    for episode in episodes:
        assert episode.terminated
        assert episode.success.tolist() == [False] * (len(episode) - 1) + [True]
        assert np.abs(episode.actions).max() <= 1
        assert episode.rewards.dtype == np.float32
        assert episode.rewards[-1] > episode.rewards[0]  # Meta-World's own reward
    assert [e.info["task"] for e in episodes] == ["door-close"] * 2 + ["reach"] * 2


def test_metadata_tells_how_it_was_made(made):
    metadata = EpisodeDataset(made).metadata
    assert metadata["collect"]["env"]["preset"] == metadata["simulation"]["render_preset"] == "fast"
    assert {"mujoco", "metaworld", "gl_renderer"} <= set(metadata["simulation"])
    assert "out" not in metadata["collect"]


def test_workers_do_not_change_the_dataset(made, tmp_path):
    assert_equal(contents(made), contents(collect(config_of(tmp_path / "two", workers=2))))


def test_seed_changes_the_starts(made, tmp_path):
    other = contents(
        collect(config_of(tmp_path / "other", seed=1, tasks=["reach"], episodes_per_task=1))
    )
    assert other[0].info["seed"] not in {episode.info["seed"] for episode in contents(made)}


def test_steps_after_success(tmp_path):
    out = collect(
        config_of(tmp_path / "after", tasks=["reach"], episodes_per_task=1, after_success_steps=3)
    )
    success = contents(out)[0].success
    assert success.argmax() == len(success) - 4


def test_paraphrases(tmp_path):
    out = collect(
        config_of(tmp_path / "all", tasks=["reach"], episodes_per_task=5, paraphrases="all")
    )
    texts = {episode.instruction for episode in contents(out)}
    task = MetaworldConfig().suite().task("reach")
    assert len(texts) > 1
    assert texts <= {task.instruction, *task.paraphrases}


# --- noise ------------------------------------------------------------------------------------------


def test_noise_comes_in_bursts_and_spares_the_gripper():
    noise = Noise(NoiseConfig(std=0.5, probability=0.1, duration=4), SPEC, np.random.default_rng(0))
    action = np.zeros(2, np.float32)
    executed = np.array([noise.disturb(action) for _ in range(400)])
    moved = executed[:, 0] != 0
    assert moved.sum() == noise.noisy_steps
    assert 0.15 < moved.mean() < 0.45  # 4 steps in each 10 + 4 or so
    assert not executed[:, 1].any()
    starts = np.flatnonzero(moved & ~np.roll(moved, 1))
    assert all(len(set(executed[s : s + 4, 0])) == 1 for s in starts[:-1])


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_random_actions_act_in_place_of_the_expert(share):
    config = NoiseConfig(std=0.0, random_shares=(share,), duration=5)
    noise = Noise(config, SPEC, np.random.default_rng(0))
    executed = np.array([noise.disturb(np.array([0.5, 0.7], np.float32)) for _ in range(2000)])
    changed = executed[:, 0] != 0.5
    assert changed.sum() == noise.noisy_steps
    assert changed.mean() == pytest.approx(share, abs=0.06)
    assert (executed[:, 1] == np.float32(0.7)).all()  # the gripper is spared
    assert all(len(set(executed[i : i + 5, 0])) == 1 for i in range(0, 2000, 5))


def test_every_episode_draws_its_share_of_random_actions():
    config = NoiseConfig(random_shares=(0.0, 0.5, 1.0))
    drawn = [Noise(config, SPEC, np.random.default_rng(seed)).random_share for seed in range(300)]
    assert set(drawn) == {0.0, 0.5, 1.0}
    assert min(drawn.count(share) for share in set(drawn)) > 70


def test_noise_stays_inside_the_bounds():
    noise = Noise(NoiseConfig(std=2.0, probability=1.0, spared=()), SPEC, np.random.default_rng(0))
    executed = np.array([noise.disturb(np.array([0.9, 1.9], np.float32)) for _ in range(100)])
    assert executed.max(0).tolist() == [1.0, 2.0]
    assert executed.min() >= -2.0
    assert np.abs(executed[:, 1]).max() > 1.0  # the scale is that of the dimension


def test_recorded_action_is_the_clean_one_unless_asked(tmp_path):
    """The same noisy episode twice: same states, other actions at the noisy steps."""
    values = {"tasks": ["reach"], "episodes_per_task": 1, "noise": {"std": 1.0, "probability": 0.2}}
    clean = contents(collect(config_of(tmp_path / "expert", **values)))[0]
    executed = contents(collect(config_of(tmp_path / "executed", actions="executed", **values)))[0]
    np.testing.assert_array_equal(clean.state, executed.state)
    differs = (clean.actions != executed.actions).any(1)
    assert 0 < differs.sum() <= clean.info["noisy_steps"]


# --- failures ---------------------------------------------------------------------------------------


def test_failed_tries_go_on_to_another_start(tmp_path, monkeypatch):
    """The expert, but at the first seed it does nothing."""
    first, seeds = episode_seed("collect", 0, "reach", 0), []
    expert, reset = MetaworldEnv.expert_action, MetaworldEnv.reset
    monkeypatch.setattr(
        MetaworldEnv, "reset", lambda self, *, seed: seeds.append(seed) or reset(self, seed=seed)
    )
    idle = np.zeros(4, np.float32)
    monkeypatch.setattr(
        MetaworldEnv, "expert_action", lambda self: idle if seeds[-1] == first else expert(self)
    )
    outcome = Demonstrator(config_of(tmp_path / "x", tasks=["reach"]))(
        Job(MetaworldConfig().suite().task("reach"), 0)
    )
    assert outcome.failures == ("missed goal",)
    assert outcome.episode.info["tries"] == 2
    assert outcome.episode.info["seed"] == episode_seed("collect", 0, "reach", 0, attempt=1)


def test_a_task_without_any_success_is_an_error(tmp_path):
    config = config_of(tmp_path / "short", tasks=["reach"], max_tries=2, episodes_per_task=1)
    config = config.model_copy(
        update={"env": MetaworldConfig(tasks=["reach"], image_size=16, horizon=3)}
    )
    with pytest.raises(CollectError, match=r"'reach'.*none of 2 tries"):
        collect(config)


def test_failures_may_be_kept(tmp_path):
    config = config_of(
        tmp_path / "short", tasks=["reach"], only_successes=False, episodes_per_task=1
    )
    config = config.model_copy(
        update={"env": MetaworldConfig(tasks=["reach"], image_size=16, horizon=3)}
    )
    (episode,) = contents(collect(config))
    assert not episode.terminated
    assert len(episode) == 3


def test_an_env_that_raises_is_named(tmp_path, monkeypatch):
    def broken(self):
        raise RuntimeError("no joint left")

    monkeypatch.setattr(MetaworldEnv, "expert_action", broken)
    with pytest.raises(WorkerError, match=r"task 'reach', episode 0.*seed \d+.*no joint left"):
        collect(config_of(tmp_path / "broken", tasks=["reach"]))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"episodes_per_task": 0}, "episodes_per_task"),
        ({"noise": {"std": -1}}, "noise.std"),
        ({"workers": 0}, "workers"),
        ({"env": {"type": "metaworl"}}, "did you mean 'metaworld'"),
        ({"env": {"type": "metaworld", "tasks": ["reech"]}}, "env.tasks.*did you mean 'reach'"),
        ({"episode_per_task": 1}, "did you mean 'episodes_per_task'"),
    ],
)
def test_wrong_configs_are_explained(tmp_path, values, message):
    with pytest.raises(ConfigError, match=message):
        config_of(tmp_path, **values)


def test_cameras_as_video_hold_the_same_episodes(made, tmp_path):
    values = {"tasks": ["reach"], "episodes_per_task": 1}
    config = load_config(
        CollectConfig, config_of(tmp_path / "film", **values).model_dump(), ["video.codec=h264"]
    )
    (film,), (picture, *_) = contents(collect(config)), contents(made)[2:]
    assert film.info == picture.info
    np.testing.assert_array_equal(film.actions, picture.actions)
    assert (
        np.abs(film.frames("corner2").astype(int) - picture.frames("corner2")).mean() < 15
    )  # tiny, sharp pictures
    assert list((tmp_path / "film").glob("videos/*/*/*.mp4"))
    other = load_config(CollectConfig, config.model_dump(), ["video.crf=40"])
    with pytest.raises(ConfigError, match=r"video\.crf: is 40"):
        collect(other, resume=True)


# --- resuming ---------------------------------------------------------------------------------------


def test_existing_dataset_is_not_overwritten(made):
    with pytest.raises(DataError, match="holds a dataset already"):
        collect(config_of(made))


def test_resume_with_another_config_is_an_error(made):
    with pytest.raises(ConfigError, match=r"noise\.std: is 0\.1, but .* was collected with 0\.4"):
        collect(config_of(made, noise={"std": 0.1}), resume=True)


def test_resume_of_a_whole_dataset_adds_nothing(made):
    before = contents(made)
    collect(config_of(made), resume=True)
    assert_equal(before, contents(made))


def test_killed_and_resumed_is_the_same(made, tmp_path):
    out, file = tmp_path / "killed", tmp_path / "collect.yaml"
    file.write_text(dump_config(config_of(out)))
    script = (
        "import sys; from vla.config import load_config; from vla.sim_eval.collection import recording;"
        "recording.SECONDS_PER_COMMIT = 0.0;"  # else a fast machine writes all episodes at once
        "recording.collect(load_config(recording.CollectConfig, sys.argv[1]))"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(file)], stderr=subprocess.DEVNULL)
    info = out / "meta" / "info.json"
    while process.poll() is None and not (
        info.exists() and json.loads(info.read_text())["total_episodes"]
    ):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL
    kept = contents(out)
    assert 0 < len(kept) < 4
    collect(config_of(out), resume=True)
    assert_equal(contents(made), contents(out))


# --- seeds ------------------------------------------------------------------------------------------


def test_seeds_of_collection_and_evaluation_never_meet():
    keys = [(seed, task, i) for seed in range(3) for task in ("reach", "push") for i in range(200)]
    collecting = {episode_seed("collect", *key) for key in keys}
    evaluating = {episode_seed("eval", *key) for key in keys}
    assert len(collecting) == len(evaluating) == len(keys)
    assert {seed % 2 for seed in collecting} == {0}
    assert {seed % 2 for seed in evaluating} == {1}
    assert max(collecting | evaluating) < 2**31


def test_seeds_stay_the_same_for_ever():
    assert episode_seed("collect", 0, "reach", 0) == 966634170
    assert episode_seed("collect", 0, "drawer-open", 0) == 1919833492
