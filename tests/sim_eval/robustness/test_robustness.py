"""Evaluation under perturbations: paired with clean, resumable, tabulated and drawn."""

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import numpy as np
import point_env
import pytest
import torch
from typer.testing import CliRunner

import vla.models  # noqa: F401  # here, for triton cannot be loaded once Mesa has brought its own LLVM along
from vla.cli import app
from vla.config import ConfigError, load_config
from vla.sim_eval.comparison.results import Results, ResultsError
from vla.sim_eval.robustness.page import robustness_section
from vla.sim_eval.robustness.plot import robustness_svg
from vla.sim_eval.robustness.sweep import PerturbConfig, perturb
from vla.sim_eval.robustness.table import Robustness
from vla.sim_eval.rollouts.jobs import EpisodeRecord


def settings(tmp_path, **changes):
    env = {"type": "test_point", "horizon": 12}
    values = {
        "env": env,
        "episodes_per_task": 3,
        "workers": 0,
        "out": str(tmp_path / "out"),
        "kinds": ["noise"],
    }
    return load_config(PerturbConfig, {**values, **changes})


class Seeker(torch.nn.Module):
    """Goes where the instruction says, by the picture: needs its eyes and its words."""

    history = 1

    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(3.0))
        self.spec = point_env.PointConfig().spec()

    def act(self, observation, memory):
        image = observation.images["top"].float()
        wanted = torch.tensor([2 if "blue" in text else 0 for text in observation.instruction])
        rows = torch.arange(len(wanted))
        mask = (image[rows, :, :, wanted] - image[rows, :, :, 2 - wanted]).clamp(min=60) - 60
        axis = torch.linspace(-1.2, 1.2, image.shape[1])
        weight = mask.sum((1, 2)) + 1e-6
        target = torch.stack(
            [(mask.sum(1) * axis).sum(1) / weight, -(mask.sum(2) * axis).sum(1) / weight], 1
        )
        action = (self.gain * (target - observation.state)).clamp(-1, 1)
        return action[:, None].detach(), memory


@pytest.fixture(scope="module")
def seeker_run(tmp_path_factory):
    out = tmp_path_factory.mktemp("robustness")
    config = settings(
        out,
        kinds=None,
        severities=[1, 3],
        env={"type": "test_point", "horizon": 40},
        episodes_per_task=6,
    )
    return perturb(Seeker(), config, name="seeker", progress=False), config


def test_what_measures_again_is_true(seeker_run):
    found, config = seeker_run
    file = f"{config.out}/robustness.yaml"
    assert found.command == (
        f'vla.sim_eval.perturb(policy, vla.load_config(vla.sim_eval.PerturbConfig, "{file}"))  # policy: the same Seeker'
    )
    assert load_config(PerturbConfig, file).policy == "Seeker"


def test_what_the_policy_needs_shows_in_the_table(seeker_run):
    found, _ = seeker_run
    controls = {control.kind: control for control in found.controls}
    assert found.clean.rate == 1.0
    assert controls["wrong_instruction"].rate <= 0.2
    assert controls["blank_image"].rate <= 0.2
    assert controls["blank_image"].losses >= 10
    assert controls["blank_image"].differs
    assert controls["empty_instruction"].rate == 0.5  # it goes to red without an instruction
    assert found.kinds["mass"][1].rate == 1.0
    assert set(found.kinds) == {
        *(
            "light",
            "camera",
            "colours",
            "distractors",
            "noise",
            "blur",
            "action_delay",
            "observation_delay",
        ),
        *("mass", "friction", "initial_pose"),
    }
    assert list(found.skipped) == ["paraphrase"]
    assert "no other words" in found.skipped["paraphrase"]


def test_conditions_are_paired_and_corrected(seeker_run):
    found, config = seeker_run
    starts = [(r.task, r.episode, r.seed) for r in Results.load(f"{config.out}/clean").episodes]
    for condition in found.conditions:
        results = Results.load(f"{config.out}/{condition.folder}")
        assert [(r.task, r.episode, r.seed) for r in results.episodes] == starts
        assert condition.wins + condition.losses + condition.ties == condition.episodes == 12
        assert condition.rate == condition.successes / 12
        assert condition.p_value <= condition.p_adjusted <= 1
    worst = min(found.conditions, key=lambda c: c.p_value)
    assert worst.p_adjusted == pytest.approx(min(1, worst.p_value * len(found.conditions)))
    assert worst.p_value == pytest.approx(
        2 * 0.5**worst.losses
    )  # exact: all discordant pairs are losses


def test_files_round_trip_and_the_drawings_hold_every_condition(seeker_run):
    found, config = seeker_run
    assert Robustness.load(config.out) == found
    text = (found.folder / "robustness.md").read_text()
    assert "| severity 1 | severity 3 |" in text
    assert "wrong_instruction" in text
    assert "Not played: paraphrase" in text
    assert robustness_svg(found) == robustness_svg(found), "the same bytes"
    svg = ElementTree.fromstring(robustness_svg(found))
    dots = svg.findall(".//{http://www.w3.org/2000/svg}use")
    assert len(dots) == 11 * 3
    titles = [element.text for element in svg.iter("{http://www.w3.org/2000/svg}title")]
    assert len(titles) == 1 + 2 * 11 * 3, "of the picture, of each dot and of its interval"
    section = robustness_section(found)
    assert section.count('class="panel"') == 11
    assert section.count("<use ") == 11 * 3
    assert "blank image" in section
    assert "no other words" in section
    page = (found.folder / "robustness.html").read_text()
    assert section in page
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")


def test_what_was_played_is_not_played_again(tmp_path):
    first = perturb(
        "expert", settings(tmp_path, kinds=["action_delay"], severities=[1]), progress=False
    )
    stamps = {
        f: (first.folder / f / "results.json").stat().st_mtime_ns
        for f in ("clean", "action_delay-1")
    }

    def stamp(folder):
        return (first.folder / folder / "results.json").stat().st_mtime_ns

    more = perturb(
        "expert", settings(tmp_path, kinds=["action_delay"], severities=[1, 2]), progress=False
    )
    assert {folder: stamp(folder) for folder in stamps} == stamps
    assert [c.folder for c in more.conditions] == ["action_delay-1", "action_delay-2"]
    assert more.conditions[0].rate == first.conditions[0].rate
    (first.folder / "action_delay-1" / "episodes.parquet").unlink()  # as if it had been interrupted
    perturb("expert", settings(tmp_path, kinds=["action_delay"], severities=[1]), progress=False)
    assert stamp("clean") == stamps["clean"]
    assert stamp("action_delay-1") != stamps["action_delay-1"]
    again = settings(tmp_path, kinds=["action_delay"], severities=[1], episodes_per_task=2)
    assert perturb("expert", again, progress=False).clean.episodes == 4
    assert stamp("clean") != stamps["clean"]


def test_new_weights_are_played_again(tmp_path):
    config = settings(tmp_path, kinds=["noise"], severities=[1], episodes_per_task=1)
    policy = Seeker()
    file = perturb(policy, config, progress=False).folder / "clean" / "results.json"
    before = file.stat().st_mtime_ns
    perturb(Seeker(), config, progress=False)  # another object with the same weights
    assert file.stat().st_mtime_ns == before
    with torch.no_grad():
        policy.gain.mul_(0.5)
    perturb(policy, config, progress=False)
    assert file.stat().st_mtime_ns != before


def test_workers_do_not_change_the_table(tmp_path):
    tables = []
    for workers in (0, 2):
        folder = tmp_path / str(workers)
        config = settings(folder, kinds=["noise"], severities=[2], workers=workers)
        tables.append(perturb(Seeker(), config, name="seeker", progress=False))
    records = [Results.load(table.folder / "noise-2").episodes for table in tables]
    assert records[0] == records[1]


def test_a_kind_that_fails_in_play_is_named_unless_it_was_asked_for(tmp_path):
    class Deaf(Seeker):
        def act(self, observation, memory):
            if "" in observation.instruction:
                raise ConfigError(["instruction: is empty; say something"])
            return super().act(observation, memory)

    small = {
        "episodes_per_task": 1,
        "severities": [1],
        "env": {"type": "test_point", "horizon": 2, "tasks": ["red"]},
    }
    found = perturb(Deaf(), settings(tmp_path, kinds=None, **small), progress=False)
    assert "say something" in found.skipped["empty_instruction"]
    assert "another instruction" in found.skipped["wrong_instruction"]
    with pytest.raises(ConfigError, match="say something"):
        perturb(Deaf(), settings(tmp_path, kinds=["empty_instruction"], **small), progress=False)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kinds": ["ligth"]}, ["kinds", "'ligth'", "'light'"]),
        ({"kinds": []}, ["kinds", "at least one"]),
        ({"kinds": ["light", "light"]}, ["kinds", "twice"]),
        ({"severities": [0, 1]}, ["severities", "0", "1, 2, 3"]),
        ({"severities": []}, ["severities", "1, 2, 3"]),
    ],
)
def test_wrong_configs_are_refused(tmp_path, changes, words):
    with pytest.raises(ConfigError) as error:
        settings(tmp_path, **changes)
    assert all(word in str(error.value) for word in words)


def test_a_kind_that_does_not_fit_is_named_before_anything_is_played(tmp_path):
    config = settings(tmp_path, kinds=["noise", "paraphrase"])
    with pytest.raises(ConfigError, match="kinds: paraphrase: the env knows no other words"):
        perturb("expert", config, progress=False)
    assert not (tmp_path / "out" / "clean").exists()


def test_other_starts_and_broken_tables_are_refused(tmp_path):
    from vla.sim_eval.robustness.table import tabulate

    record = EpisodeRecord("red", "warm", 0, 1, "go", True, True, 3, 0.0, "")
    clean = Results("p", "points", (record,))
    with pytest.raises(ValueError, match="same starts"):
        tabulate(
            clean,
            {("noise", 1): Results("p", "points (noise 1)", (replace(record, seed=3),))},
            skipped={},
            command="",
            folder=tmp_path,
        )
    with pytest.raises(ResultsError, match="vla eval perturb"):
        Robustness.load(tmp_path)
    (tmp_path / "robustness.json").write_text(json.dumps({"policy": "p"}))
    with pytest.raises(ResultsError, match="no table of perturbations"):
        Robustness.load(tmp_path)


def test_command_line(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(
        f"eval:\n  env: {{type: test_point, horizon: 12}}\n  episodes_per_task: 1\n  workers: 0\n  out: {tmp_path / 'out'}\n"
    )
    runner = CliRunner()
    result = runner.invoke(
        app,
        [
            "eval",
            "perturb",
            str(file),
            "seed=3",
            "--kinds",
            "noise,blank_image",
            "--severities",
            "1",
        ],
    )
    assert result.exit_code == 0, result.output
    assert "blank_image" in result.output
    found = Robustness.load(tmp_path / "out")
    assert [c.folder for c in found.conditions] == ["noise-1", "blank_image"]
    wrong = runner.invoke(app, ["eval", "perturb", str(file), "--kinds", "nose"])
    assert wrong.exit_code == 2
    assert "did you mean 'noise'" in " ".join(wrong.output.split())
    assert np.isclose(found.clean.rate, Results.load(tmp_path / "out" / "clean").rate)
