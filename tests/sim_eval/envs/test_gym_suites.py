"""Locomotion, PointMaze and Fetch: gymnasium's own numbers, experts that solve, and robots without cameras end to end."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
import pytest
import torch
from point_env import PointConfig

from vla.config import ConfigError, UserError, dump_config, load_config
from vla.data import EpisodeDataset
from vla.sim_eval.collection.recording import CollectConfig, collect, demonstrate
from vla.sim_eval.comparison.results import Results
from vla.sim_eval.env import EnvConfig, SimEnv
from vla.sim_eval.env_contract import check_env
from vla.sim_eval.envs.experts.fetch import STEP
from vla.sim_eval.envs.experts.policy_snapshots import Behaviour, BehaviourConfig, load_snapshots
from vla.sim_eval.envs.fetch import FetchConfig
from vla.sim_eval.envs.locomotion import ROBOTS, LocomotionConfig, threshold
from vla.sim_eval.envs.pointmaze import MAPS, PointMazeConfig, path
from vla.sim_eval.evaluation import EvalConfig, evaluate
from vla.sim_eval.mujoco.gymnasium_env import MissingPackageError, gym_versions
from vla.sim_eval.rollouts.episode_player import EpisodePlayer
from vla.sim_eval.rollouts.jobs import Job
from vla.sim_eval.workers.job_pool import WorkerError
from vla.types import Observation, Spec

PUBLISHED = Path(__file__).parents[4] / "shared" / "data" / "policies"
FETCH = ("reach", "push", "slide", "pick-and-place")


def config_of(suite: str, task: str, **values: Any) -> EnvConfig:
    if suite == "locomotion":
        return LocomotionConfig(robot=task, **{"horizon": 30} | values)
    return (PointMazeConfig if suite == "pointmaze" else FetchConfig)(tasks=(task,), **values)


def write_snapshots(
    file: Path, gaits: Sequence[Sequence[float]], sizes: tuple[int, int] = (11, 3)
) -> Path:
    """A file in the published layout: snapshot i wants gaits[i] in every state, and has a standard deviation of 0.1."""
    states, actions = sizes
    with h5py.File(file, "w") as h5:
        for i, gait in enumerate(gaits):
            at = f"snapshots/iter{20 * i:07d}/GaussianPolicy"
            for layer in (0, 2):
                columns = states if layer == 0 else 8
                h5[f"{at}/hidden/FeedforwardNet/layer_{layer}/AffineLayer/W"] = np.zeros(
                    (columns, 8)
                )
                h5[f"{at}/hidden/FeedforwardNet/layer_{layer}/AffineLayer/b"] = np.full((1, 8), 0.5)
            h5.create_group(f"{at}/hidden/FeedforwardNet/layer_1/TanhLayer")
            h5[f"{at}/out/AffineLayer/W"] = np.zeros((8, actions))
            h5[f"{at}/out/AffineLayer/b"] = np.array([gait])
            h5[f"{at}/logstdevs_1_Da"] = np.full((1, actions), np.log(0.1))
            h5[f"{at}/obsnorm/Standardizer/mean_1_D"] = np.zeros((1, states))
            h5[f"{at}/obsnorm/Standardizer/meansq_1_D"] = np.ones((1, states))
    return file


@pytest.fixture
def hopper_file(tmp_path: Path) -> Path:
    return write_snapshots(
        tmp_path / "hopper.h5", [(-1.0, -1.0, -1.0), (0.0, 0.0, 0.0), (0.0, 0.1, 0.2)]
    )


@pytest.fixture(scope="module")
def fetch_envs() -> Iterator[dict[str, SimEnv]]:
    envs = {task: FetchConfig(tasks=(task,)).make(task) for task in FETCH}
    yield envs
    for env in envs.values():
        env.close()


def play(env: SimEnv, seed: int) -> tuple[bool, int, float]:
    """The expert's episode -> (solved, steps, return)."""
    env.render_images = False
    env.reset(seed=seed)
    steps, total, over, solved = 0, 0.0, False, False
    while not over:
        _, reward, terminated, truncated, info = env.step(env.expert_action())
        steps, total, solved = steps + 1, total + reward, solved or info["success"]
        over = terminated or truncated or (solved and env.task.ends_at_success)
    return solved, steps, total


# --- what they see and do ---------------------------------------------------------------------------


@pytest.mark.parametrize("robot", ROBOTS)
def test_the_spec_of_a_robot_is_that_of_gymnasium(robot: str) -> None:
    config, theirs = LocomotionConfig(robot=robot), gymnasium.make(ROBOTS[robot].env_id)
    spec = config.spec()
    assert spec.state_dim == theirs.observation_space.shape[0] == len(set(spec.state_names))
    np.testing.assert_array_equal(spec.action_low, theirs.action_space.low)
    np.testing.assert_array_equal(spec.action_high, theirs.action_space.high)
    assert spec.control_hz == pytest.approx(1 / theirs.unwrapped.dt)
    assert len(set(spec.action_names)) == spec.action_dim
    assert not config.suite().task(robot).ends_at_success
    assert threshold(robot) > 0
    theirs.close()


def test_names_of_the_hopper_follow_its_observation() -> None:
    """Gymnasium's table: height, angles of torso, thigh, leg and foot; then velocities, of the way along x too."""
    names = LocomotionConfig().spec().state_names
    assert names[:3] == ("rootz", "rooty", "thigh_joint")
    assert names[5:8] == ("rootx_velocity", "rootz_velocity", "rooty_velocity")


def test_the_state_holds_observation_and_goal(fetch_envs: dict[str, SimEnv]) -> None:
    for task, env in fetch_envs.items():
        observation, _ = env.reset(seed=4)
        state = dict(zip(env.robot_spec.state_names, observation["state"], strict=True))
        raw = env.raw
        np.testing.assert_allclose(
            [state[f"goal_{axis}"] for axis in "xyz"], raw["desired_goal"], rtol=1e-6
        )
        thing = "hand" if task == "reach" else "object"
        np.testing.assert_allclose(
            [state[f"{thing}_{axis}"] for axis in "xyz"], raw["achieved_goal"], rtol=1e-6
        )


@pytest.mark.parametrize(
    ("suite", "task"),
    [("locomotion", "inverted-pendulum"), ("locomotion", "hopper"), ("pointmaze", "umaze")],
)
@pytest.mark.parametrize("image_size", [None, 32])
def test_the_contract_is_kept(suite: str, task: str, image_size: int | None) -> None:
    env = config_of(suite, task, image_size=image_size, horizon=20).make(task)
    check_env(env, steps=10)
    assert env.render().std() > 5  # something is to be seen
    env.close()


def test_fetch_keeps_the_contract(fetch_envs: dict[str, SimEnv]) -> None:
    for env in fetch_envs.values():
        check_env(env, steps=10)


def test_the_goal_is_drawn_where_it_is_and_moves_nothing() -> None:
    """Of two pictures that differ in nothing but the mark of the goal, one lacks the red of it."""
    env = FetchConfig(tasks=("push",), image_size=64).make("push")
    env.reset(seed=1)
    before = env.data.qpos.copy(), env.data.qvel.copy()
    seen = env.observe()["images"]["external_camera_0"].astype(int)
    env.sim.goal = env.sim.goal + [0.0, 0.0, 5.0]  # out of sight
    unseen = env.observe()["images"]["external_camera_0"].astype(int)
    changed = np.abs(seen - unseen).max(axis=-1) > 40
    assert 1 <= changed.sum() < 60
    reds = seen[changed]
    assert (reds[:, 0] > reds[:, 1] + 40).any()
    np.testing.assert_array_equal(before[0], env.data.qpos)
    np.testing.assert_array_equal(before[1], env.data.qvel)
    env.close()


# --- gymnasium's own numbers, and seeds -------------------------------------------------------------


@pytest.mark.parametrize(
    ("suite", "task", "env_id"),
    [
        ("locomotion", "hopper", "Hopper-v5"),
        ("locomotion", "ant", "Ant-v5"),
        ("locomotion", "inverted-pendulum", "InvertedPendulum-v5"),
        ("pointmaze", "umaze", "PointMaze_UMaze-v3"),
        ("fetch", "push", "FetchPush-v4"),
    ],
)
@pytest.mark.parametrize("image_size", [None, 16])
def test_rewards_and_states_are_those_of_gymnasium(
    suite: str, task: str, env_id: str, image_size: int | None
) -> None:
    """Pictures between the steps change nothing either."""
    ours = config_of(suite, task, image_size=image_size).make(
        task
    )  # gymnasium-robotics registers its envs here
    theirs = gymnasium.make(env_id)
    observation, _ = ours.reset(seed=11)
    raw, _ = theirs.reset(seed=11)
    rng = np.random.default_rng(0)
    for _ in range(25):
        np.testing.assert_array_equal(observation["state"], ours.flatten(raw))
        action = rng.uniform(ours.robot_spec.action_low, ours.robot_spec.action_high).astype(
            np.float32
        )
        observation, reward, terminated, *_ = ours.step(action)
        raw, their_reward, their_end, *_ = theirs.step(action)
        assert (reward, terminated) == (float(their_reward), bool(their_end))
        if terminated:
            break
    ours.close()
    theirs.close()


@pytest.mark.parametrize(
    ("suite", "task"), [("locomotion", "walker2d"), ("pointmaze", "medium"), ("fetch", "slide")]
)
def test_a_seed_gives_the_same_episode_whatever_came_before(suite: str, task: str) -> None:
    config = config_of(suite, task)
    used, fresh = config.make(task), config.make(task)
    for seed in (1, 2):  # of which the env must remember nothing
        used.reset(seed=seed)
        for _ in range(7):
            used.step(np.ones(used.robot_spec.action_dim))
    actions = np.random.default_rng(5).uniform(-1, 1, (20, used.robot_spec.action_dim))
    episodes = []
    for env in (used, fresh):
        rows = [env.reset(seed=3)[0]["state"]]
        rows += [env.step(action)[0]["state"] for action in actions]
        episodes.append(np.stack(rows))
    np.testing.assert_array_equal(*episodes)
    assert not np.array_equal(fresh.reset(seed=4)[0]["state"], episodes[1][0])
    used.close()
    fresh.close()


# --- experts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("maze", MAPS)
def test_the_shortest_path_solves_mazes(maze: str) -> None:
    env = PointMazeConfig(tasks=(maze,), reward="dense").make(maze)
    outcomes = [play(env, seed) for seed in range(4)]
    assert all(solved and steps < env.task.horizon * 2 / 3 for solved, steps, _ in outcomes)
    env.close()


def test_paths_are_shortest_and_go_through_no_wall() -> None:
    walls = (
        (False, False, False),
        (False, True, False),
        (False, True, True),
        (False, False, False),
    )
    found = path(walls, (3, 2), (1, 2))
    assert found == ((3, 2), (3, 1), (3, 0), (2, 0), (1, 0), (0, 0), (0, 1), (0, 2), (1, 2))
    assert path(walls, (0, 0), (0, 0)) == ((0, 0),)
    assert path(((False, True, False),), (0, 0), (0, 2)) == ()


@pytest.mark.parametrize(
    ("task", "least"), [("reach", 24), ("push", 24), ("pick-and-place", 24), ("slide", 8)]
)
def test_scripted_experts_solve_fetch(fetch_envs: dict[str, SimEnv], task: str, least: int) -> None:
    assert sum(play(fetch_envs[task], seed)[0] for seed in range(24)) >= least


def test_failures_tell_how_far_an_episode_came(fetch_envs: dict[str, SimEnv]) -> None:
    env = fetch_envs["pick-and-place"]
    in_the_air = next(s for s in range(20) if env.reset(seed=s)[0]["state"][-1] > 0.5)
    assert play_by(env, in_the_air, lambda: np.array([0.0, 0.0, 1.0, 0.0])) == "never reached"
    env.reset(seed=in_the_air)
    carried = [env.expert_action()]
    while env.step(carried[-1])[4]["failure"] in ("never reached", "no grasp"):
        carried.append(env.expert_action())
    let_go = [np.array([0.0, 0.0, 0.0, 1.0])] * 12
    infos = [env.step(action)[4] for action in let_go]
    assert infos[-1]["failure"] == "dropped"


def play_by(env: SimEnv, seed: int, act: Any) -> str:
    """How the episode fails in which `act` gives every action."""
    env.reset(seed=seed)
    while True:
        *_, truncated, info = env.step(act())
        if truncated:
            return info["failure"]


# --- snapshots --------------------------------------------------------------------------------------


def test_a_snapshot_computes_what_its_weights_say(tmp_path: Path) -> None:
    file = write_snapshots(tmp_path / "a.h5", [(0.1, -0.2)], sizes=(2, 2))
    with h5py.File(file, "r+") as h5:
        policy = h5["snapshots/iter0000000/GaussianPolicy"]
        policy["hidden/FeedforwardNet/layer_0/AffineLayer/W"][...] = np.eye(2, 8)
        policy["hidden/FeedforwardNet/layer_2/AffineLayer/W"][...] = 2 * np.eye(8)
        policy["out/AffineLayer/W"][...] = np.eye(8, 2)
        policy["obsnorm/Standardizer/mean_1_D"][...] = [[1.0, 0.0]]
        policy["obsnorm/Standardizer/meansq_1_D"][...] = [[5.0, 9.0]]  # variances 4 and 9
    [snapshot] = load_snapshots(file)
    x = np.array([3.0, -1.5])
    hidden = np.tanh(2 * np.tanh(np.array([1.0, -0.5]) + 0.5) + 0.5)
    np.testing.assert_allclose(snapshot.policy(x), hidden + [0.1, -0.2], atol=1e-5)
    draws = np.stack([snapshot.policy(x, np.random.default_rng(i)) for i in range(400)])
    assert draws.std(axis=0) == pytest.approx([0.1, 0.1], rel=0.15)


def test_the_hopper_plays_its_snapshot(hopper_file: Path) -> None:
    """Its return is that of gymnasium's own hopper for the actions that the file stands for, and it does not fall."""
    config = LocomotionConfig(horizon=40, behaviour=BehaviourConfig(path=hopper_file))
    env, theirs = config.make("hopper"), gymnasium.make("Hopper-v5")
    theirs.reset(seed=7)
    gait = np.array([0.0, 0.1, 0.2], dtype=np.float32)
    expected = sum(float(theirs.step(gait)[1]) for _ in range(40))
    solved, steps, total = play(env, 7)
    assert (solved, steps) == (False, 40)
    assert total == pytest.approx(expected, rel=1e-6)
    assert 35 < total < 80  # upright it earns 1 a step, and its speed
    env.close()


def test_episodes_draw_their_snapshot_by_the_seed(hopper_file: Path) -> None:
    def drawn(**values: Any) -> list[int]:
        behaviour = Behaviour(BehaviourConfig(path=hopper_file, **values), "hopper", (11, 3))
        found = []
        for seed in range(30):
            behaviour.begin(seed)
            found.append(behaviour.current.index)
        return found

    assert set(drawn()) == {2}
    assert set(drawn(snapshots="all")) == {0, 1, 2}
    assert drawn(snapshots="all") == drawn(snapshots="all")
    assert set(drawn(snapshots=(0, 0.5))) == {0, 1}
    assert [s.iteration for s in load_snapshots(hopper_file)] == [0, 20, 40]


@pytest.mark.skipif(
    not PUBLISHED.is_dir(), reason="the published snapshots are not on this machine"
)
@pytest.mark.parametrize(
    ("robot", "least"), [("hopper", 550), ("walker2d", 600), ("halfcheetah", 600)]
)
def test_published_experts_run(robot: str, least: float) -> None:
    returns = {}
    for which in (0, -1):
        behaviour = BehaviourConfig(path=PUBLISHED, snapshots=(which,))
        env = LocomotionConfig(robot=robot, horizon=200, behaviour=behaviour).make(robot)
        returns[which] = play(env, 0)[2]
        env.close()
    assert returns[-1] > least > 2 * returns[0]


def test_success_is_a_return_reached_upright(hopper_file: Path) -> None:
    values: dict[str, Any] = {"horizon": 40, "behaviour": BehaviourConfig(path=hopper_file)}
    for success_return, expected in ((30.0, (True, "")), (100.0, (False, "too slow"))):
        env = LocomotionConfig(success_return=success_return, **values).make("hopper")
        env.reset(seed=7)
        infos = [env.step(env.expert_action())[4] for _ in range(40)]
        assert (infos[-1]["success"], infos[-1]["failure"]) == expected
        assert not any(info["success"] for info in infos[:-1])
        env.close()
    env = LocomotionConfig(horizon=300, success_return=0.0).make("hopper")
    env.reset(seed=0)
    terminated = False
    while not terminated:
        *_, terminated, truncated, info = env.step(np.array([-1.0, -1.0, -1.0]))
        assert not truncated
    assert (info["success"], info["failure"]) == (False, "fell")
    env.close()


# --- mistakes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env", "words"),
    [
        (
            {"type": "locomotion", "robot": "hoper"},
            r"env\.robot: no 'hoper' \(did you mean 'hopper'",
        ),
        (
            {"type": "pointmaze", "tasks": ["giant"]},
            r"\Aenv\.tasks\.0: no 'giant'; there are: umaze, [a-z, ]*\Z",
        ),
        ({"type": "fetch", "tasks": []}, r"\Aenv\.tasks: .*name at least one task"),
        ({"type": "pointmaze", "tasks": ["umaze", "umaze"]}, "umaze: named twice"),
        ({"type": "fetch", "tasks": ["reach", "push"]}, r"tasks: \[reach\] in a config of its own"),
        (
            {"type": "locomotion", "behaviour": {"path": "x", "snapshots": [1.5]}},
            "behaviour.snapshots",
        ),
    ],
)
def test_wrong_configs_are_explained(env: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_config(EvalConfig, {"env": env})


@pytest.mark.parametrize(
    ("config", "task"),
    [(LocomotionConfig(), "walker2d"), (PointMazeConfig(), "mediun"), (FetchConfig(), "reach")],
)
def test_unknown_tasks_are_explained(config: EnvConfig, task: str) -> None:
    with pytest.raises(ConfigError, match=f"has no task '{task}'.*it has: "):
        config.make(task)


def test_wrong_snapshots_are_explained(tmp_path: Path, hopper_file: Path) -> None:
    def error(robot: str = "hopper", **values: Any) -> str:
        with pytest.raises(ConfigError) as caught:
            LocomotionConfig(robot=robot, behaviour=BehaviourConfig(**values)).make(robot)
        return str(caught.value)

    assert "env.behaviour.path" in error(path=tmp_path / "none.h5")
    assert "no such file" in error(path=tmp_path / "none.h5")
    assert "holds no ant.h5; there are snapshots of: hopper" in error("ant", path=tmp_path)
    assert "11 observations and 3 actions, but swimmer has 8 and 2" in error(
        "swimmer", path=hopper_file
    )
    assert "no number 3 in" in error(path=hopper_file, snapshots=(3,))
    (tmp_path / "text.h5").write_text("no HDF5")
    assert "holds no snapshots" in error(path=tmp_path / "text.h5")
    with h5py.File(tmp_path / "empty.h5", "w") as h5:
        h5.create_group("snapshots")
    assert "holds no snapshots" in error(path=tmp_path / "empty.h5")


def test_without_an_expert_collection_says_what_to_set(tmp_path: Path) -> None:
    config = load_config(
        CollectConfig, {"env": {"type": "locomotion"}, "out": tmp_path / "d", "workers": 1}
    )
    with pytest.raises(WorkerError, match=r"set env\.behaviour\.path"):
        collect(config)


def test_a_missing_file_leaves_no_dataset_behind(tmp_path: Path) -> None:
    env = {"type": "locomotion", "behaviour": {"path": tmp_path / "none.h5"}}
    with pytest.raises(ConfigError, match="no such file"):
        collect(load_config(CollectConfig, {"env": env, "out": tmp_path / "dataset"}))
    assert not (tmp_path / "dataset").exists()


class Absent:
    """Lets Python look for gymnasium-robotics in vain."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.split(".")[0] == "gymnasium_robotics":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.mark.parametrize(("suite", "task"), [("pointmaze", "umaze"), ("fetch", "push")])
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, suite: str, task: str) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "gymnasium_robotics"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Absent(), *sys.meta_path])
    with pytest.raises(
        MissingPackageError, match=r"gymnasium-robotics is not installed.*vla\[sim\]"
    ) as caught:
        config_of(suite, task).make(task)
    assert isinstance(caught.value, UserError)


def test_a_missing_simulator_is_named() -> None:
    with pytest.raises(MissingPackageError, match="no-such-simulator is not installed"):
        gym_versions(LocomotionConfig().spec(), "fast", "no-such-simulator")


# --- end to end, without a camera -------------------------------------------------------------------


class Reacher:
    """A policy that sees nothing but the state: moves the hand towards the goal in it."""

    history = 1

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self._hand = [spec.state_names.index(f"hand_{axis}") for axis in "xyz"]
        self._goal = [spec.state_names.index(f"goal_{axis}") for axis in "xyz"]

    def act(self, observation: Observation, memory: Any = None) -> tuple[torch.Tensor, None]:
        observation.check(self.spec)
        assert not observation.images
        offset = (observation.state[:, self._goal] - observation.state[:, self._hand]) / STEP
        return torch.nn.functional.pad(offset.clamp(-1, 1), (0, 1))[:, None], None


def test_a_policy_without_eyes_is_evaluated(tmp_path: Path) -> None:
    values = {
        "env": {"type": "fetch", "tasks": ["reach"], "horizon": 12},
        "episodes_per_task": 3,
        "workers": 0,
    }
    config = load_config(EvalConfig, values | {"out": str(tmp_path), "videos_per_task": 1})
    results = evaluate(Reacher(config.env.spec()), config, name="reacher", progress=False)
    assert [r.success_ever for r in results.episodes] == [True] * 3
    assert [r.video for r in results.episodes] == ["videos/reach-000.mp4", "", ""]
    assert (tmp_path / results.episodes[0].video).stat().st_size > 1000
    assert (tmp_path / "report.html").is_file()
    assert Results.load(tmp_path).versions["env"] == "Fetch-v4"
    random = evaluate(
        "random", config.model_copy(update={"out": str(tmp_path / "random")}), progress=False
    )
    assert [r.seed for r in random.episodes] == [r.seed for r in results.episodes]
    assert {r.failure for r in random.episodes if not r.success_ever} <= {"never reached"}


def test_workers_change_nothing(tmp_path: Path) -> None:
    values = {
        "env": {"type": "pointmaze", "tasks": ["umaze"]},
        "episodes_per_task": 3,
        "videos_per_task": 0,
    }
    played = []
    for workers in (0, 2):
        config = load_config(
            EvalConfig, values | {"out": str(tmp_path / str(workers)), "workers": workers}
        )
        played.append(evaluate("expert", config, progress=False).episodes)
    assert played[0] == played[1]
    assert all(record.success_ever for record in played[0])


def test_mazes_are_collected_from_a_config_file(tmp_path: Path) -> None:
    """The file of the repository, smaller."""
    file = Path(__file__).parents[3] / "configs" / "pointmaze.yaml"
    overrides = [
        "env.tasks=[umaze]",
        "episodes_per_task=2",
        "workers=1",
        f"out={tmp_path / 'dataset'}",
    ]
    config = load_config(CollectConfig, file, overrides, section="collect")
    dataset = EpisodeDataset(collect(config))
    assert dataset.spec == config.env.spec()
    assert not dataset.spec.cameras
    for i in range(2):
        episode = dataset.episode(i)
        assert episode.rewards[-1] == 1.0
        assert episode.success.tolist() == [False] * (len(episode) - 1) + [True]
        assert episode.terminated


def test_a_dataset_of_mixed_snapshots_says_who_acted(tmp_path: Path, hopper_file: Path) -> None:
    env = {
        "type": "locomotion",
        "horizon": 15,
        "behaviour": {"path": hopper_file, "snapshots": "all"},
    }
    values = {"noise": {"std": 0.0}, "actions": "executed", "only_successes": False, "workers": 1}
    config = load_config(
        CollectConfig,
        values | {"env": env, "out": tmp_path / "dataset", "episodes_per_task": 12, "max_tries": 1},
    )
    dataset = EpisodeDataset(collect(config))
    gaits = {"snapshot 0": -1.0, "snapshot 1": 0.0, "snapshot 2": 0.2}
    episodes = [dataset.episode(i) for i in range(len(dataset))]
    assert {episode.info["expert"] for episode in episodes} == set(gaits)
    for episode in episodes:
        np.testing.assert_allclose(
            episode.actions[:, 2], gaits[str(episode.info["expert"])], atol=1e-6
        )
        assert not episode.success.any()
        assert episode.terminated == (len(episode) < 15)  # by a fall; a time limit is no terminal
    assert {episode.terminated for episode in episodes} == {True, False}
    metadata = dataset.info()["metadata"]["simulation"]
    assert metadata["snapshots"] == config.env.expert().digest


# --- tasks that go on after a success ---------------------------------------------------------------


def test_a_task_that_goes_on_is_played_to_its_end(tmp_path: Path) -> None:
    config = load_config(
        CollectConfig, {"env": {"type": "test_point"}, "out": tmp_path, "noise": {"std": 0.0}}
    )
    env = PointConfig().make("red")
    lengths, ends = {}, {}
    for goes_on in (False, True):
        env.task = dataclasses.replace(env.task, ends_at_success=not goes_on)
        env.render_images = True
        episode, failure = demonstrate(env, config, seed=0)
        assert not failure
        assert episode.success.any()
        player = EpisodePlayer(
            env, Job("red", "warm", 0, seed=0, horizon=env.task.horizon, driver="expert")
        )
        while not player.over:
            player.step(env.expert_action(), look=False)
        assert player.record().success_ever
        assert player.steps == len(episode)
        lengths[goes_on], ends[goes_on] = len(episode), episode.terminated
    assert lengths[True] == env.task.horizon > lengths[False]
    assert ends == {False: True, True: False}
    env.close()


def test_configs_of_the_repository_survive_a_round_trip(tmp_path: Path) -> None:
    folder = Path(__file__).parents[3] / "configs"
    for name in ("locomotion", "pointmaze", "fetch"):
        for cls, section in ((CollectConfig, "collect"), (EvalConfig, "eval")):
            config = load_config(cls, folder / f"{name}.yaml", section=section)
            saved = tmp_path / f"{name}_{section}.yaml"
            saved.write_text(dump_config(config))
            assert load_config(cls, saved) == config
