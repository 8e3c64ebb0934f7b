"""The judge of hostile inputs sees each outcome, and the kinds make inputs."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vla.common.errors import UserError

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _beside_benchmarks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "attacks"]:
        del sys.modules[name]


def refuse(error: Exception) -> Callable[[], Any]:
    def read() -> Any:
        raise error

    return read


def remark() -> int:
    warnings.warn("edited", FutureWarning, stacklevel=1)
    return 2


def outcome_of(read: Callable[[], Any], folder: Path, **options: Any) -> str:
    from attacks import _case

    folder.mkdir(exist_ok=True)
    _case.mark(folder).mkdir(exist_ok=True)
    found, _ = _case.judge(_case.Case("an input", read, **options), folder)
    return str(found)


def test_outcomes(tmp_path: Path) -> None:
    from attacks import _case

    folder = tmp_path / "input"
    assert outcome_of(refuse(UserError("no")), folder) == "refused"
    assert outcome_of(refuse(FileNotFoundError(2, "no", "x")), folder) == "refused"
    assert outcome_of(refuse(OSError("no file is named")), folder) == "traceback"
    assert outcome_of(refuse(KeyError("x")), folder) == "traceback"
    assert outcome_of(lambda: 1, folder, harmless=1) == "same"
    assert outcome_of(lambda: 2, folder, harmless=1) == "silent"
    assert outcome_of(lambda: 1, folder, check=lambda found: "wrong") == "silent"
    assert outcome_of(remark, folder, harmless=1) == "warned"
    assert outcome_of(lambda: _case.SECRET, folder) == "outside"
    assert outcome_of(refuse(UserError(_case.SECRET)), folder) == "outside"
    assert outcome_of(lambda: input("?"), folder, harmless="y") == "same", "questions are answered"
    assert outcome_of(lambda: (_case.mark(folder) / "x").touch(), folder) == "code"


def test_inputs_are_a_function_of_their_number(tmp_path: Path) -> None:
    from attacks import _case

    assert {"checkpoint_bits", "checkpoint_code", "pages", "terminal"} <= set(_case.kinds())
    for kind in ("pages", "terminal"):
        texts = [_case.prepare(kind, 0, number, tmp_path / "input").what for number in (3, 3, 4)]
        assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize("number", range(3))
def test_a_few_pages(number: int, tmp_path: Path) -> None:
    from attacks import _case

    case = _case.prepare("pages", 0, number, tmp_path / "input")
    assert _case.judge(case, tmp_path / "input")[0] == "same"
