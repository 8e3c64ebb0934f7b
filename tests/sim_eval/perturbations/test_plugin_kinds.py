"""Perturbations that are not of this package: found, listed, played and reported, behind ours."""

from __future__ import annotations

import importlib.metadata
import sys
from types import ModuleType

import numpy as np
import point_env
import pytest
from typer.testing import CliRunner

from vla.cli import app
from vla.common import plugins, registry
from vla.config import load_config
from vla.sim_eval.comparison.results import Results
from vla.sim_eval.envs.perturbed import PerturbedConfig
from vla.sim_eval.perturbations import CONTROLS, GRADED, Perturbation, all_kinds, describe
from vla.sim_eval.robustness.sweep import PerturbConfig, perturb
from vla.sim_eval.robustness.table import Robustness

MODULE = "push_perturbation"


@pytest.fixture(autouse=True)
def clean_registry(monkeypatch):
    """What a test registers is gone after it; plug-ins are loaded afresh."""
    # before what is known is copied: a file registers its kinds once, when it is first imported
    registry.registered("perturbations")
    known = {kind: dict(entries) for kind, entries in registry._registry.items()}
    monkeypatch.setattr(registry, "_registry", known)
    registry._load_plugins.cache_clear()
    sys.modules.pop(MODULE, None)
    yield
    registry._load_plugins.cache_clear()
    sys.modules.pop(MODULE, None)


@pytest.fixture
def plugin(monkeypatch) -> None:
    """Declares the entry point, as an installed package does; nothing of it is imported yet."""
    entry_point = importlib.metadata.EntryPoint("push", MODULE, "vla.plugins")
    monkeypatch.setattr(plugins, "_entry_points", lambda: [entry_point])


def settings(folder, **changes):
    values = {
        "env": {"type": "test_point", "horizon": 12},
        "episodes_per_task": 2,
        "workers": 0,
        "out": str(folder / "out"),
    }
    return load_config(PerturbConfig, {**values, **changes})


def test_they_come_behind_ours(plugin):
    assert all_kinds() == (*GRADED, *CONTROLS, "test_idle", "test_push")
    assert describe("test_push") == "x + 0.1, 0.2, 0.4 of the action's range"


def test_vla_list_shows_them(plugin):
    result = CliRunner().invoke(app, ["list", "perturbations"])
    assert result.exit_code == 0, result.output
    # a long description goes on in an indented line
    names = [row.split()[0] for row in result.output.splitlines() if not row.startswith(" ")]
    assert names == sorted([*GRADED, *CONTROLS, "test_idle", "test_push"])
    assert "A steady push to the right." in result.output


def test_the_command_line_plays_them(plugin, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(
        "env: {type: test_point, horizon: 12}\nepisodes_per_task: 1\nworkers: 0\n"
        f"out: {tmp_path / 'out'}\n"
    )
    kinds = "kinds=[test_push, test_idle, noise]"
    result = CliRunner().invoke(app, ["eval", "perturb", str(file), kinds, "severities=[1, 3]"])
    assert result.exit_code == 0, result.output
    found = Robustness.load(tmp_path / "out")
    folders = ["test_push-1", "test_push-3", "test_idle", "noise-1", "noise-3"]
    assert [condition.folder for condition in found.conditions] == folders
    assert "x + 0.1, 0.2, 0.4 of the action" in (tmp_path / "out" / "robustness.md").read_text()


def test_all_kinds_are_played_where_none_is_named(plugin, tmp_path):
    small = {"type": "test_point", "horizon": 2, "tasks": ["red"]}
    config = settings(tmp_path, env=small, episodes_per_task=1, severities=[1])
    found = perturb("expert", config, progress=False)
    assert [c.kind for c in found.conditions][-2:] == ["test_idle", "test_push"]


def test_workers_know_what_a_module_of_the_user_registers(tmp_path):
    """No entry point: the worker imports the module because the config brings the class along."""
    importlib.import_module(MODULE)
    records = []
    for workers in (0, 2):
        folder = tmp_path / str(workers)
        config = settings(folder, kinds=["test_push"], severities=[2], workers=workers)
        found = perturb("expert", config, progress=False)
        records.append(Results.load(found.folder / "test_push-2").episodes)
    assert records[0] == records[1]


def test_a_class_of_a_notebook_perturbs_an_env(monkeypatch):
    notebook = ModuleType("notebook")
    monkeypatch.setitem(sys.modules, "notebook", notebook)

    def run_cell():
        attributes = {"kind": "mine", "unit": "backwards", "__module__": "notebook"}
        mine = type("Mine", (Perturbation,), attributes)
        mine.action = lambda self, action: -action  # type: ignore[method-assign]
        return registry.register("perturbations", "mine")(mine)

    run_cell()
    latest = run_cell()  # a cell that runs twice makes the class a second time
    config = PerturbedConfig(env=point_env.PointConfig(), kind="mine")
    assert config._kind_class is latest
    env = config.make("red")
    env.render_images = False
    env.reset(seed=1)
    moved = env.step(np.ones(2, np.float32))[0]["state"]
    assert (moved < 0).all()
    env.close()
