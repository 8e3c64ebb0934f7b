"""Evaluations end to end: the files they write, what they refuse, and one on real Meta-World."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from point_env import PointConfig

from vla.config import ConfigError, UserError, dump_config, load_config, read_yaml
from vla.sim_eval import (
    EvalConfig,
    Results,
    ResultsError,
    collect,
    compare,
    evaluate,
    rollout_picture,
)
from vla.sim_eval.envs.metaworld import MetaworldConfig
from vla.sim_eval.evaluation import save_config
from vla.sim_eval.rollouts.film_strips import film_strip
from vla.sim_eval.rollouts.video import read_video
from vla.training import TrainConfig
from vla.training.run_directory import open_run, write_run
from vla.types import Observation, SpecError

CONFIGS = Path(__file__).parents[2] / "configs"
EXAMPLES = Path(__file__).parents[2] / "examples"


class Right:
    """Always goes to the right."""

    history = 1
    spec = PointConfig().spec()

    def act(self, observation: Observation, memory: None = None) -> tuple[torch.Tensor, None]:
        return torch.tensor([1.0, 0.0]).expand(observation.batch_size, 2, 2), None


def config(out: Path, **values) -> EvalConfig:
    return EvalConfig(
        **{
            "env": {"type": "test_point"},
            "episodes_per_task": 3,
            "workers": 0,
            "out": str(out),
            **values,
        }
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Results:
    out = tmp_path_factory.mktemp("results")
    return evaluate("expert", config(out, videos_per_task=1), progress=False)


def test_results_file(made: Results) -> None:
    assert made.folder is not None
    values = json.loads((made.folder / "results.json").read_text())
    assert list(values)[:8] == [
        "policy",
        "suite",
        "training",
        "overall",
        "macro_rate",
        "groups",
        "tasks",
        "versions",
    ]
    assert values["policy"] == "expert"
    assert values["suite"] == "points"
    assert values["overall"]["wilson95"] == pytest.approx([0.6097, 1.0], abs=1e-4)
    assert values["overall"] | {"wilson95": 0} == {
        "successes": 6,
        "episodes": 6,
        "rate": 1.0,
        "wilson95": 0,
    }
    assert set(values["groups"]) == {"warm", "cold"}
    assert {name: v["episodes"] for name, v in values["tasks"].items()} == {"red": 3, "blue": 3}
    assert values["versions"]["preset"] == "fast"
    assert {"python", "torch", "mujoco", "vla"} <= set(values["versions"])
    assert values["config"]["env"]["type"] == "test_point"


def test_episodes_file_and_videos(made: Results) -> None:
    assert made.folder is not None
    table = pd.read_parquet(made.folder / "episodes.parquet")
    columns = [
        "policy",
        "task",
        "group",
        "episode",
        "seed",
        "instruction",
        "success_ever",
        "success_at_end",
        "steps",
    ]
    assert list(table) == [*columns, "return", "failure", "video", "failure_step", "max_reward"]
    assert len(table) == 6
    assert table.seed.nunique() == 6
    filmed = table[table.video != ""]
    assert list(filmed.episode) == [0, 0]
    for row in filmed.itertuples():
        frames = read_video(made.folder / row.video)
        assert len(frames) == row.steps + 1
        assert frames.shape[1:] == (192, 192, 3)
        red = (frames[0].astype(int) @ [1, -1, -1] > 0).sum()
        assert red > 100, "the red square is in the picture"


def test_results_come_back(made: Results) -> None:
    assert made.folder is not None
    again = Results.load(made.folder)
    assert again.episodes == made.episodes
    assert again.to_dict() == json.loads((made.folder / "results.json").read_text())
    assert again.table().row_count == 1 + 2 + 2 + 1


def test_the_saved_config_repeats_the_evaluation(made: Results, tmp_path: Path) -> None:
    assert made.folder is not None
    assert made.command == f"vla eval {made.folder / 'eval.yaml'}"
    repeated = load_config(EvalConfig, made.folder / "eval.yaml", [f"out={tmp_path}"])
    assert evaluate("expert", repeated, progress=False).episodes == made.episodes
    assert load_config(EvalConfig, json.loads(json.dumps(made.config))) == load_config(
        EvalConfig, made.folder / "eval.yaml"
    )
    assert "type: test_point" in dump_config(repeated)


def test_macro_and_episode_averages_differ(made: Results) -> None:
    red = [r for r in made.episodes if r.task == "red"]
    lost = [r for r in made.episodes if r.task == "blue"][:1]
    lost = [type(r)(**{**r.__dict__, "success_ever": False, "failure": "came near"}) for r in lost]
    results = Results("x", "points", (*red, *lost))
    assert results.rate == pytest.approx(3 / 4)
    assert results.macro_rate == pytest.approx(1 / 2)


def test_a_policy_is_measured(tmp_path: Path) -> None:
    results = evaluate(
        Right(), config(tmp_path, replan_every=2, episodes_per_task=6), name="right", progress=False
    )
    assert results.policy == "right"
    assert results.rate < 0.5
    assert {r.failure for r in results.episodes if not r.success_ever} <= {
        "came near",
        "never came near",
    }
    assert (tmp_path / "report.html").read_text().count("<video") == 4


def test_a_policy_without_a_name_is_never_called_a_baseline(tmp_path: Path) -> None:
    small = {"episodes_per_task": 1, "videos_per_task": 0, "failure_videos": 0}
    results = evaluate(Right(), config(tmp_path / "new", **small), progress=False)
    assert results.policy == "Right"
    assert results.command == (
        f'vla.evaluate(policy, vla.load_config(vla.EvalConfig, "{tmp_path}/new/eval.yaml"))  # policy: the same Right'
    )
    assert (
        load_config(EvalConfig, tmp_path / "new" / "eval.yaml").policy
        == results.config["policy"]
        == "Right"
    )
    known = Right()
    known.source = "runs/right/policy"  # type: ignore[attr-defined]
    results = evaluate(known, config(tmp_path / "known", policy="random", **small), progress=False)
    assert results.policy == "right"
    assert results.command == f"vla eval {tmp_path / 'known' / 'eval.yaml'}"
    assert load_config(EvalConfig, tmp_path / "known" / "eval.yaml").policy == "runs/right/policy"
    results = evaluate(
        "random", config(tmp_path / "random", policy="expert", **small), progress=False
    )
    assert (
        load_config(EvalConfig, tmp_path / "random" / "eval.yaml").policy
        == results.policy
        == "random"
    )


def test_training_and_evaluation_share_a_folder(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("the config of training\n")
    small = config(tmp_path, episodes_per_task=1, videos_per_task=0)
    evaluate("expert", small, progress=False)
    assert (tmp_path / "config.yaml").read_text() == "the config of training\n"
    (tmp_path / "eval.yaml").rename(tmp_path / "config.yaml")  # as earlier versions left it
    other = evaluate(
        "random", small.model_copy(update={"out": str(tmp_path / "other")}), progress=False
    )
    assert set(compare([tmp_path, other.folder or ""]).runs) == {"expert", "random"}


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_no_file_of_an_evaluation_is_one_of_training(path: Path, tmp_path: Path) -> None:
    """In every config of the repository, whether or not its sections name one folder."""
    sections = read_yaml(path)
    if not {"train", "eval"} <= set(sections):
        pytest.skip("it does not train and evaluate")
    training = load_config(TrainConfig, path, [f"out={tmp_path}"], section="train")
    write_run(training, "no")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    save_config(load_config(EvalConfig, path, [f"out={tmp_path}"], section="eval"))
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert load_config(TrainConfig, tmp_path / "config.yaml") == training
    assert open_run(training, resume=True) is None, "it can be resumed: no checkpoint yet"


def test_nothing_is_written_where_the_policy_does_not_fit(tmp_path: Path) -> None:
    film = tmp_path / "videos" / "red-000.mp4"
    film.parent.mkdir()
    film.touch()
    with pytest.raises(SpecError, match="camera 'top' is 16x16, expected 32x32"):
        evaluate(
            Right(), config(tmp_path, env={"type": "test_point", "image_size": 16}), progress=False
        )
    with pytest.raises(
        UserError, match="target_return is 1, but the policy is not conditioned on returns"
    ):
        evaluate(Right(), config(tmp_path, target_return=1.0), progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["videos"]
    assert film.exists(), "the films of an earlier evaluation are untouched"


def test_a_config_that_was_not_loaded(tmp_path: Path) -> None:
    values: Any = {"env": {"type": "test_point"}, "out": str(tmp_path)}
    with pytest.raises(
        UserError,
        match=r"expected EvalConfig, got dict; use load_config\(vla.EvalConfig, \{\.\.\.\}\)",
    ):
        evaluate("expert", values)
    with pytest.raises(
        UserError,
        match=r"expected CollectConfig, got str; use load_config\(vla.CollectConfig, 'x'\)",
    ):
        collect("x")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"episodes_per_task": 0}, "episodes_per_task: is 0 for 2 tasks"),
        ({"env": {"type": "test_point", "tasks": []}}, "0 tasks: an evaluation needs one of each"),
    ],
)
def test_nothing_to_play(tmp_path: Path, values: dict, line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        evaluate("expert", config(tmp_path, **values), progress=False)
    assert not list(tmp_path.iterdir())


def test_wrong_configs(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"policy: 'runs/x' is no baseline; .*load_policy\('runs/x'\)"
    ):
        evaluate("runs/x", config(tmp_path), progress=False)  # type: ignore[arg-type]
    for values, line in [
        ({"env": {"type": "metaworl"}}, r"env.type: no 'metaworl' \(did you mean 'metaworld'"),
        ({"env": {"type": "test_point"}, "episodes": 3}, "episodes: unknown key"),
        (
            {"env": {"type": "test_point"}, "ensemble": 0.1, "replan_every": 2},
            "ensemble needs replan_every=1, got 2",
        ),
    ]:
        with pytest.raises(ConfigError, match=line):
            load_config(EvalConfig, values)


def test_results_that_are_not_there(tmp_path: Path, made: Results) -> None:
    assert made.folder is not None
    with pytest.raises(ResultsError, match=r"results.json: no such file"):
        Results.load(tmp_path)
    (tmp_path / "results.json").write_text('{"policy": "x"')
    with pytest.raises(ResultsError, match=r"episodes.parquet: no such file"):
        Results.load(tmp_path)
    (tmp_path / "episodes.parquet").write_bytes((made.folder / "episodes.parquet").read_bytes())
    with pytest.raises(ResultsError, match="not the results of an evaluation: not valid JSON"):
        Results.load(tmp_path)
    with pytest.raises(ValueError, match="hold no episode"):
        Results("x", "y", ())


def test_film_strip(tmp_path: Path) -> None:
    frames = [np.full((40, 40, 3), 10 * i, np.uint8) for i in range(11)]
    strip = np.asarray(
        Image.open(film_strip(tmp_path / "a" / "strip.png", frames, "Go", count=3, height=80))
    )
    assert strip.shape == (34 + 80 + 22 + 6, 6 + 3 * 86, 3)
    assert [int(strip[70, 6 + 40 + 86 * i, 0]) for i in range(3)] == [0, 50, 100]
    with pytest.raises(ValueError, match="at least one frame"):
        film_strip(tmp_path / "none.png", [], "Go")


def test_picture_of_a_rollout(tmp_path: Path) -> None:
    small, large = PointConfig(horizon=12), PointConfig(horizon=12, image_size=48)
    path = rollout_picture(tmp_path / "r.png", Right(), small, "red", seed=5, show=large, count=4)
    picture = np.asarray(Image.open(path)).astype(int)
    dark = (picture[34:194].sum(-1) < 120).any(0)  # columns in which the black dot is
    places = [np.flatnonzero(dark[6 + 166 * i : 166 + 166 * i]).mean() for i in range(4)]
    assert places == sorted(places)
    assert places[3] - places[0] > 20, "the dot goes to the right"


def test_metaworld_with_workers(tmp_path: Path) -> None:
    env = MetaworldConfig(tasks=("button-press-topdown",), image_size=32, horizon=110)
    settings = EvalConfig(
        env=env, episodes_per_task=2, workers=2, videos_per_task=1, out=str(tmp_path)
    )
    expert = evaluate("expert", settings, progress=False)
    assert expert.rate == 1.0
    assert all(40 < r.steps < 110 for r in expert.episodes)
    assert {"metaworld", "mujoco", "gl_renderer", "render_preset"} <= set(expert.versions)
    random = evaluate("random", settings, progress=False)
    assert random.rate == 0.0
    assert [r.seed for r in random.episodes] == [r.seed for r in expert.episodes]
    assert all(r.failure for r in random.episodes)


def test_example_runs_an_instruction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    example = str(EXAMPLES / "02_run_a_policy_on_an_instruction.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [example])
    runpy.run_path(example, run_name="__main__")
    assert "'close the window':" in capsys.readouterr().out
    assert Image.open(tmp_path / "runs" / "rollout.png").size[0] > 800
