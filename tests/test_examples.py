"""The numbered examples run. They are loaded by their path: their names begin with a digit."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def _load(number: str) -> ModuleType:
    (path,) = EXAMPLES.glob(f"{number}_*.py")
    spec = importlib.util.spec_from_file_location(f"example_{number}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_01_collect_and_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _load("01").main(str(tmp_path / "dataset"))
    assert (tmp_path / "runs" / "demonstration.png").exists()


def test_03_train_on_your_own_dataset(tmp_path: Path) -> None:
    _load("03").main(tmp_path, episodes=6, steps=2)
    assert (tmp_path / "run" / "policy" / "model.safetensors").exists()


def test_04_your_own_env(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _load("04").main(str(tmp_path))
    printed = capsys.readouterr().out
    assert "8 demonstrations" in printed
    assert "expert: 20 of 20 solved" in printed
    assert len(list(tmp_path.glob("expert/videos/*.mp4"))) == 4
