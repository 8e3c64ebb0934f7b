"""What users and plug-ins know by its former name still works, and says once what to write now."""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path

import numpy as np
import pytest

import vla.data
from vla.common import renamed
from vla.common.renamed import RenamedWarning
from vla.data import EpisodeDataset, encode_png
from vla.data.formats.common.episodic_reader import EpisodicReader
from vla.data.tools.plan import Plan


@pytest.fixture(autouse=True)
def _nothing_was_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renamed, "_announced", set())


@pytest.mark.parametrize(
    ("module", "former", "name"),
    [
        ("vla.data", "Picture", "Image"),
        ("vla.data", "decode_png", "decode_image"),
        ("vla.data.format", "Picture", "Image"),
        ("vla.data.episode", "decode_png", "decode_image"),
        ("vla.data.tools.derived", "rewrite", "write_derived"),
    ],
)
def test_former_attributes(module: str, former: str, name: str) -> None:
    found = importlib.import_module(module)
    with pytest.warns(RenamedWarning, match=name):
        assert getattr(found, former) is getattr(found, name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        getattr(found, former)  # said once


def test_a_name_that_never_was_is_still_missing() -> None:
    with pytest.raises(AttributeError, match="no attribute 'decode_gif'"):
        vla.data.decode_gif  # noqa: B018


def test_a_plugin_that_imports_by_former_names_works(npz: Path) -> None:
    with pytest.warns(RenamedWarning):
        exec("from vla.data import Picture, decode_png", scope := {})
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    np.testing.assert_array_equal(scope["decode_png"](encode_png(image)), image)


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    path = tmp_path / "two.npz"
    np.savez(path, **{"0/actions": np.array([[0.0], [np.nan]]), "1/actions": np.ones((3, 1))})
    return path


def test_numbers_of_a_dataset(npz: Path) -> None:
    dataset = EpisodeDataset(npz)
    with pytest.warns(RenamedWarning, match="unchecked_columns"):
        numbers = dataset.numbers
    assert numbers is dataset.unchecked_columns
    assert np.isnan(numbers.actions[1])


def test_ranges_of_a_reader(npz: Path) -> None:
    reader = EpisodeDataset(npz).reader
    assert isinstance(reader, EpisodicReader)
    with pytest.warns(RenamedWarning, match="_step_ranges"):
        assert list(reader._spans(1, 4)) == [(0, 0, 1, 2), (1, 2, 0, 2)]


def test_a_plan_is_written_by_the_former_name(npz: Path, tmp_path: Path) -> None:
    from vla.data.tools import derived

    dataset = EpisodeDataset(npz)
    plan = Plan("test", [dataset], [(0, 1)], dataset.spec, {})
    with pytest.warns(RenamedWarning, match="write_derived"):
        made = derived.rewrite(plan, tmp_path / "out")
    assert (made.episodes, made.frames) == (1, 3)
