"""Former module paths still import, and are the same modules."""

from __future__ import annotations

import importlib
import importlib.util
import sys

import pytest

from vla.common import renamed
from vla.common.moved import MOVED
from vla.common.renamed import RenamedWarning


@pytest.fixture
def _as_in_a_new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renamed, "_announced", set())
    for name in MOVED:
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.mark.usefixtures("_as_in_a_new_process")
@pytest.mark.filterwarnings("ignore::vla.common.renamed.RenamedWarning")
@pytest.mark.parametrize("former", MOVED)
def test_the_former_path_holds_the_very_objects(former: str) -> None:
    before = importlib.import_module(former)
    now = importlib.import_module(MOVED[former])
    assert importlib.util.find_spec(MOVED[former]) is not None
    public = [name for name in vars(now) if not name.startswith("_")]
    assert all(getattr(before, name) is getattr(now, name) for name in public)


@pytest.mark.usefixtures("_as_in_a_new_process")
def test_it_says_what_to_write_now() -> None:
    expected = "vla.training.values.base is now called vla.training.offline_rl.values.base"
    with pytest.warns(RenamedWarning, match=expected):
        importlib.import_module("vla.training.values.base")


def test_a_module_that_never_was() -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("vla.training.nowhere")
