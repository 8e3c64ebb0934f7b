"""Packages whose plug-ins are broken: a warning that names them, and the command goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import vla

HEAD = """
from typing import Literal
from vla.config import Config, register

@register("envs", "half_made")
class HalfMade(Config):
    type: Literal["half_made"] = "half_made"
"""
BROKEN = {
    "raises": HEAD + "raise RuntimeError('no licence')",
    "not-importable": "import a_module_that_is_not_there",
    "takes-a-name": HEAD.replace("half_made", "pointmaze"),
    "takes-a-former-name": HEAD.replace('"half_made")', '"half_made", former=("pointmaze",))'),
    "ends-the-program": "raise SystemExit(3)",
}


def install(folder: Path, package: str, source: str, entry_points: str = "") -> None:
    """A distribution as pip leaves it: a module, and a folder of metadata."""
    module = package.replace("-", "_")
    (folder / f"{module}.py").write_text(source)
    metadata = folder / f"{module}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    text = entry_points or f"[vla.plugins]\nall = {module}\n"
    (metadata / "entry_points.txt").write_text(text)


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(folder), str(Path(vla.__file__).parents[1])])
    command = [sys.executable, "-m", "vla.cli", *arguments]
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_command_goes_on_without_those_that_are_broken(tmp_path: Path) -> None:
    for package, source in BROKEN.items():
        install(tmp_path, package, source)
    whole = HEAD.replace("half_made", "whole")
    install(tmp_path, "whole", whole)
    install(tmp_path, "no-list", "", entry_points="[vla.plugins\nnonsense")
    found = run(tmp_path, "list", "envs")
    assert found.returncode == 0, found.stderr
    names = [line.split()[0] for line in found.stdout.splitlines() if line.strip()]
    assert "whole" in names
    assert "pointmaze" in names
    assert "half_made" not in names
    lines = found.stderr.splitlines()
    for package in BROKEN:
        (line,) = (line for line in lines if f"the plug-in {package} is left out" in line)
        assert line.startswith("warning: ")
        assert line.endswith(f"pip uninstall {package}")
    assert "RuntimeError: no licence" in found.stderr
    assert "'pointmaze' is registered by vla.sim_eval.envs.pointmaze already" in found.stderr
    assert "Traceback" not in found.stderr


def test_a_command_that_needs_it_says_so_in_one_line(tmp_path: Path) -> None:
    install(tmp_path, "raises", BROKEN["raises"])
    config = tmp_path / "eval.yaml"
    config.write_text("eval: {env: {type: half_made}, policy: expert, out: x}\n")
    found = run(tmp_path, "config", "check", str(config))
    assert found.returncode == 2
    errors = [line for line in found.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, found.stderr
    assert "the plug-in raises was left out (RuntimeError: no licence)" in errors[0]


@pytest.mark.parametrize("name", ["rt1"])
def test_a_name_of_a_file_that_was_not_imported_is_taken(tmp_path: Path, name: str) -> None:
    code = f"""
from vla.common import registry
try:
    @registry.register("policies", "{name}")
    class Other: ...
except ValueError as error:
    print(error)
print(registry.lookup("policies", "{name}").__module__)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(vla.__file__).parents[1])}
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.splitlines() == [
        f"policies: '{name}' is registered by vla.models.policies.{name} already",
        f"vla.models.policies.{name}",
    ]
