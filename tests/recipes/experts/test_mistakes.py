"""What a user may get wrong, and what an earlier run has left."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from typer.testing import CliRunner

from vla.cli import app
from vla.config import ConfigError, UserError, load_config, register
from vla.data import EpisodeDataset
from vla.recipes.experts.actors import ExpertError
from vla.recipes.experts.config import ExpertConfig
from vla.recipes.experts.run import train_expert
from vla.recipes.experts.state_env import CHECKED_STATES, SeenStates, StateEnv
from vla.sim_eval.env import SimEnv, Suite, Task
from vla.sim_eval.envs.locomotion import LocomotionConfig
from vla.sim_eval.rollouts.seeding import episode_seed
from vla.types import Spec

pytest.importorskip("stable_baselines3")
pytest.importorskip("sb3_contrib")

PENDULUM = {"type": "locomotion", "robot": "inverted-pendulum", "horizon": 30}
BASE: dict[str, Any] = {
    "env": PENDULUM,
    "algorithm": "a2c",
    "steps": 20,
    "hidden": 8,
    "eval_episodes": 1,
}


@register("envs", "test_two_pendulums")
class TwoPendulums(LocomotionConfig):
    """Two tasks of one robot; `blind`: without a state."""

    type: Literal["test_two_pendulums"] = "test_two_pendulums"  # type: ignore[assignment]
    robot: Literal["inverted-pendulum"] = "inverted-pendulum"
    blind: bool = False

    def spec(self) -> Spec:
        spec = super().spec()
        if not self.blind:
            return spec
        return dataclasses.replace(spec, state_names=(), cameras={"front": (32, 32)})

    def suite(self) -> Suite:
        return Suite("two", (Task("left", "g", "Left"), Task("right", "g", "Right")))


def run(out: Path, **values: Any) -> Any:
    config = load_config(ExpertConfig, BASE | {"out": str(out)} | values)
    return train_expert(config, progress=False)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"algorithm": "sca"}, r"algorithm: no 'sca' \(did you mean 'sac'\?\)"),
        (
            {"options": {"gama": 0.9}},
            r"options.gama: A2C has no such option \(did you mean 'gamma'",
        ),
        ({"options": {"policy_kwargs": 1}}, "options.policy_kwargs: A2C has no such option"),
        ({"options": {"gamma": "high"}}, "options.gamma: is 'high', expected a value such as 0.99"),
        ({"options": {"n_steps": 2.5}}, "options.n_steps: is 2.5, expected a value such as 5"),
        (
            {"algorithm": "ppo", "options": {"batch_size": 1, "n_steps": 1}},
            "options: PPO refuses .*batch_size",
        ),
        ({"depth": 0}, "depth: 0 is a linear policy, which ars alone learns"),
        ({"action_noise": 0.1}, "action_noise: a2c explores by itself"),
        ({"snapshots": {}}, "snapshots: is empty"),
        ({"snapshots": {"../up": 1.0}}, "snapshots"),
        ({"task": "left"}, "task: locomotion/inverted-pendulum has no 'left'; it has: inverted-p"),
        ({"env": {"type": "test_two_pendulums"}}, "task: two has 2; name one of: left, right"),
        (
            {"env": {"type": "test_two_pendulums", "blind": True}},
            "env: two has cameras alone, and an expert learns from the state",
        ),
        (
            {"algorithm": "dqn", "env": {"type": "locomotion", "robot": "halfcheetah"}},
            r"bins: dqn chooses among the 5\^6 combinations .* set bins=3 or less, or use",
        ),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    values: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message) as found:
        run(tmp_path / "out", **values)
    assert "\n" not in str(found.value)
    assert not (tmp_path / "out").exists()


def test_a_training_that_diverges_says_so(tmp_path: Path) -> None:
    values = {
        "algorithm": "ppo",
        "options": {"learning_rate": 1e30, "n_steps": 16, "batch_size": 8},
    }
    with pytest.raises(ExpertError, match=r"ppo: the weights .*; set options.learning_rate lower"):
        run(tmp_path / "out", **values)


@pytest.mark.parametrize("package", ["stable_baselines3", "sb3_contrib"])
def test_an_absent_package_is_named(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    name = package.replace("_", "-")
    algorithm = "a2c" if package == "stable_baselines3" else "trpo"
    with pytest.raises(UserError, match=rf"{name} is not installed.*pip install 'vla\[experts\]'"):
        run(tmp_path / "out", algorithm=algorithm)
    assert not (tmp_path / "out").exists()


def test_an_earlier_run_is_not_lost(tmp_path: Path) -> None:
    run(tmp_path)
    before = (tmp_path / "expert.json").read_bytes()
    with pytest.raises(UserError, match=r"holds an expert already.*--restart"):
        run(tmp_path)
    # a wrong option is found before anything is deleted
    config = load_config(ExpertConfig, BASE | {"out": str(tmp_path), "options": {"gama": 1}})
    with pytest.raises(ConfigError):
        train_expert(config, restart=True, progress=False)
    assert (tmp_path / "expert.json").read_bytes() == before
    (tmp_path / "notes.txt").write_text("mine")
    values = BASE | {"out": str(tmp_path), "seed": 3, "snapshots": {"last": 1.0}}
    train_expert(load_config(ExpertConfig, values), restart=True, progress=False)
    assert sorted(path.name for path in (tmp_path / "policies").iterdir()) == ["last"]
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_folder_of_something_else_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "metrics.jsonl").write_text("of a training")
    config = load_config(ExpertConfig, BASE | {"out": str(tmp_path)})
    for restart in (False, True):
        with pytest.raises(UserError, match="is not empty; set out=OTHER_FOLDER"):
            train_expert(config, restart=restart, progress=False)
    assert (tmp_path / "metrics.jsonl").read_text() == "of a training"


def test_nothing_pickled_is_written(tmp_path: Path) -> None:
    run(tmp_path, algorithm="sac", options={"learning_starts": 5})
    found = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert found <= {".json", ".jsonl", ".yaml", ".md", ".safetensors"}


def test_starts_are_never_those_of_evaluations() -> None:
    """Each episode has its own; copies of the env share none."""
    met: list[int] = []

    class Recorded(LocomotionConfig):
        def make(self, task: str) -> SimEnv:
            env = super().make(task)
            reset = env.reset
            env.reset = lambda *, seed: met.append(seed) or reset(seed=seed)  # type: ignore[method-assign,assignment,func-returns-value]
            return env

    from vla.recipes.experts.actions import RangeActions

    config = Recorded(robot="inverted-pendulum", horizon=3)
    seen = SeenStates(4)
    copies = [
        StateEnv(
            config.make("inverted-pendulum"),
            RangeActions(config.spec()),
            seen,
            seed=7,
            number=number,
            stride=2,
        )
        for number in range(2)
    ]
    for env in copies:
        for _ in range(3):
            env.reset(seed=11)
        env.close()
    numbers = [0, 2, 4, 1, 3, 5]
    expected = [episode_seed("collect", 7, "inverted-pendulum", number) for number in numbers]
    assert met == expected
    assert all(seed % 2 == 0 for seed in met)  # those of evaluations are odd


def test_success_ends_an_episode_only_if_asked() -> None:
    config = LocomotionConfig(robot="inverted-pendulum", horizon=5, success_return=1.0)
    from vla.recipes.experts.actions import RangeActions

    for end in (False, True):
        env = StateEnv(
            config.make("inverted-pendulum"),
            RangeActions(config.spec()),
            SeenStates(4),
            seed=0,
            end_at_success=end,
        )
        env.reset()
        over = [env.step(np.zeros(1, np.float32))[2:] for _ in range(5)]
        terminated, truncated, info = over[-1]
        assert info["success"] is True
        assert (terminated, truncated) == (end, True)
        env.close()


def test_the_states_that_are_kept_are_the_last_ones() -> None:
    seen = SeenStates(1)
    seen.add(np.array([5.0]))
    assert seen.states().tolist() == [[5.0]]
    for number in range(CHECKED_STATES + 3):
        seen.add(np.array([float(number)]))
    assert sorted(seen.states()[:, 0]) == list(range(3, CHECKED_STATES + 3))


def test_the_command_trains_and_its_policies_make_a_dataset(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    out, data = tmp_path / "run", tmp_path / "data"
    file.write_text(
        f"""
expert: {{env: {PENDULUM}, algorithm: a2c, steps: 20, hidden: 8, eval_episodes: 1, out: {out}}}
collect:
  env: {PENDULUM}
  out: {data}
  episodes_per_task: 3
  noise: {{std: 0.0}}
  actions: executed
  only_successes: false
  workers: 1
  behaviours: {{policies: [{{path: {out}/policies/medium, share: 1.0, temperature: 1.0}}]}}
"""
    )
    runner = CliRunner()
    trained = runner.invoke(app, ["expert", str(file)])
    assert trained.exit_code == 0, trained.output
    assert "medium" in trained.output
    collected = runner.invoke(app, ["collect", str(file)])
    assert collected.exit_code == 0, collected.output
    infos = EpisodeDataset(data).episodes["info"]
    assert len(infos) == 3
    assert all("policies/medium" in info for info in infos)
