"""The command line: help, errors without traceback, exit status."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vla.cli import app, shared
from vla.common import renamed
from vla.common.registry import KINDS, entries
from vla.training import TrainConfig

CONFIGS = Path(__file__).parents[1] / "configs"
runner = CliRunner()


@pytest.mark.parametrize(
    "command",
    [
        "demo",
        "collect",
        "train",
        "eval",
        "fqe",
        "diagnose",
        "data relabel",
        "eval ab",
        "eval plan",
        "compare",
        "list",
        "bench",
        "data info",
        "config schema",
    ],
)
def test_help_has_an_example(command: str) -> None:
    result = runner.invoke(app, [*command.split(), "--help"])
    assert result.exit_code == 0
    assert "Example:" in result.output


def test_list_names_what_is_registered() -> None:
    assert "rt1" in runner.invoke(app, ["list", "policies"]).output
    wrong = runner.invoke(app, ["list", "polices"])
    assert wrong.exit_code == 2
    assert "did you mean 'policies'" in wrong.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_list_knows_every_kind(kind: str) -> None:
    result = runner.invoke(app, ["list", kind])
    assert result.exit_code == 0, result.stderr
    names = [line.split()[0] for line in result.output.splitlines() if line[:1].strip()]
    assert names == [entry.name for entry in entries(kind)]
    assert kind in runner.invoke(app, ["list", "--help"]).output


def test_list_and_help_load_no_heavy_library() -> None:
    """A kind's files are read, not imported: those of policies would load torch, timm and more."""
    code = """if True:
        import sys
        from typer.testing import CliRunner
        from vla.cli import app
        from vla.common.registry import KINDS

        for arguments in (["--help"], ["train", "--help"], *(["list", kind] for kind in KINDS)):
            assert CliRunner().invoke(app, arguments).exit_code == 0, arguments
        heavy = ("torch", "timm", "transformers", "gymnasium", "matplotlib", "numpy", "pandas")
        sys.exit(", ".join(name for name in heavy if name in sys.modules) or 0)
    """
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_former_key_is_remarked_on_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renamed, "_announced", set())
    monkeypatch.setattr(TrainConfig, "former_keys", {"num_steps": "steps"})
    path = tmp_path / "train.yaml"
    path.write_text("train: {out: x, data: {path: x}, policy: {type: mlp}, num_steps: 1}\n")
    before = warnings.showwarning
    result = runner.invoke(app, ["config", "check", str(path)])
    assert result.exit_code == 0, result.output
    assert result.stderr == "note: num_steps is now called steps; the old name still works\n"
    assert result.stdout == "train: fine\n"
    assert warnings.showwarning is before
    assert runner.invoke(app, ["config", "check", str(path)]).stderr == "", "once"


def test_other_warnings_stay_what_they_are() -> None:
    with pytest.warns(UserWarning, match="something else"), shared.clear_errors():
        warnings.warn("something else", UserWarning, stacklevel=1)


def test_list_is_a_table_of_names_and_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared.console, "_width", 80)
    lines = runner.invoke(app, ["list", "objectives"]).output.splitlines()
    where = next(line.index("Implicit Q-learning") for line in lines if line.startswith("ilql"))
    assert all(line[where - 2 : where] == "  " and line[where] != " " for line in lines), (
        "aligned, also where it goes on"
    )
    text = " ".join(line[where:].strip() for line in lines)
    assert (
        "the policy climbs it (by entropy-regularised gradients, or as `extraction` says)." in text
    ), "whole paragraphs"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["data", "info", "d", "page.html"], "page.html: expected KEY=VALUE, for example control"),
        (["train", "data.path=d", "steps=2"], "is an override, expected the YAML file of a config"),
        (["train", str(CONFIGS)], f"CONFIG.yaml data.path={CONFIGS}"),
        (
            ["train", str(CONFIGS / "metaworld_mt10.yaml"), "polcy.history=3"],
            "did you mean 'policy'",
        ),
        (["train", str(CONFIGS / "metaworld_mt10.yaml"), "data.path=nowhere"], "nowhere"),
        (["eval", str(CONFIGS / "metaworld_mt10.yaml"), "policy=nowhere"], "nowhere"),
        (["eval", "paln"], "paln: no such file"),
        (["eval", "plan", "--rates", "60", "75"], "rate is 60: expected a success rate"),
        (["eval", "plan", "--rates", "0.6", "0.6"], "tells equal policies apart"),
        (
            ["collect", str(CONFIGS / "metaworld_mt10.yaml"), "env.tasks=[drawer-opne]"],
            "drawer-open",
        ),
        (["data", "info", "nowhere"], "nowhere"),
        (["bench", "nothing"], "no benchmark 'nothing'"),
        (["config", "schema", "trian"], "no config 'trian'"),
        (["demo", "train.stpes=1"], "did you mean 'steps'"),
    ],
)
def test_a_mistake_is_status_2_without_traceback(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = runner.invoke(app, arguments)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert "Traceback" not in result.output + result.stderr


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.name)
def test_every_config_of_the_repository_is_valid(path: Path) -> None:
    result = runner.invoke(app, ["config", "check", str(path)])
    assert result.exit_code == 0, result.stderr


def test_eval_without_a_config_says_so() -> None:
    result = runner.invoke(app, ["eval"])
    assert result.exit_code == 2
    assert "Missing argument 'config'" in result.stderr.replace("CONFIG", "config")


def test_help_of_eval_names_the_other_commands() -> None:
    output = runner.invoke(app, ["eval", "--help"]).output
    assert "plan" in output[output.index("Commands:") :]


def test_eval_plan_prints_episodes_per_policy() -> None:
    result = runner.invoke(
        app, ["eval", "plan", "--rates", "0.6", "0.75", "--unpaired", "--tasks", "5"]
    )
    assert result.exit_code == 0, result.stderr
    assert "155" in result.output  # 154 for the unpaired test, rounded up to a multiple of 5
    assert "unpaired" in result.output


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("vla.sim_eval")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(
        sys.modules, "gymnasium", None
    )  # what an import meets where it is not installed
    result = runner.invoke(app, ["collect", str(CONFIGS / "metaworld_mt10.yaml")])
    assert result.exit_code == 2
    assert "gymnasium is not installed: pip install 'vla[sim]'" in result.stderr


def test_schema_is_json() -> None:
    import json

    result = runner.invoke(app, ["config", "schema", "train"])
    assert "optim" in json.loads(result.stdout)["properties"]


def test_evaluation_without_a_simulator_has_a_section_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "all.yaml"
    path.write_text(
        "train: {out: x, data: {path: x}, policy: {type: mlp}, steps: 1}\nfqe: {policies: [a], data: {path: x}}\n"
    )
    result = runner.invoke(app, ["config", "check", str(path)])
    assert result.exit_code == 0, result.output
    assert "train: fine\nfqe: fine" in result.output
    result = runner.invoke(app, ["fqe", str(path)])  # the section, not the whole file
    assert result.exit_code == 2
    assert "unknown" not in result.stderr
    path.write_text("fqe: {policies: [a], data: {path: x}, stps: 3}\n")
    result = runner.invoke(app, ["config", "check", str(path)])
    assert result.exit_code == 2
    assert "did you mean 'steps'" in result.stderr
    assert "policies" in runner.invoke(app, ["config", "schema", "fqe"]).stdout


def test_the_demo_config_is_checked_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "demo.yaml"
    path.write_text("out: runs/x\ntrain: {steps: 7}\n")
    result = runner.invoke(app, ["config", "check", str(path)])
    assert result.exit_code == 0, result.output
    assert "demo: fine" in result.output
    path.write_text("out: runs/x\ntrain: {stesp: 7}\n")
    result = runner.invoke(app, ["config", "check", str(path)])
    assert result.exit_code == 2
    assert "did you mean 'steps'" in result.stderr
