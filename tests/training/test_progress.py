"""What is shown of a run where no terminal is."""

from __future__ import annotations

import time

import pytest

from vla.common import progress
from vla.common.progress import ambient_progress
from vla.training.progress import ProgressDisplay


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "FIRST_SECONDS", 0.02)
    monkeypatch.setattr(progress, "EVERY_SECONDS", 0.05)


def _wait_for(text: str, read: object) -> str:
    """What was printed until `text` was among it."""
    found = ""
    until = time.monotonic() + 20
    while text not in found and time.monotonic() < until:
        time.sleep(0.005)
        found += read()  # type: ignore[operator]
    assert text in found
    return found


def test_lines_from_the_preparation_to_the_last_step(
    quick: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with ProgressDisplay(10, None, enabled=True) as display:
        _wait_for("preparing the run  0:00\n", lambda: capsys.readouterr().err)
        decoding = ambient_progress()
        assert decoding is not None, "what decodes pictures reports here"
        decoding(5, 20)
        _wait_for("preparing the run  5/20", lambda: capsys.readouterr().err)
        display.begin(2)
        assert ambient_progress() is None
        display.advance(3)
        out = _wait_for("step 3/10", lambda: capsys.readouterr().out)
        assert out.splitlines()[-1].endswith(" left")
        display.show({"loss": 0.5})
        assert "step 3/10  loss 0.5" in _wait_for("loss", lambda: capsys.readouterr().out)
    time.sleep(0.1)
    assert capsys.readouterr().out == "", "nothing comes after the end"


def test_the_log_is_enough_while_it_speaks(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressDisplay(10, None, enabled=True) as display:
        display.begin(0)
        for step in range(1, 4):
            display.advance(step)
            display.show({"loss": 1.0})
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_other_processes_are_silent(quick: None, capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressDisplay(10, None, enabled=False) as display:
        time.sleep(0.1)
        display.begin(0)
        time.sleep(0.1)
        display.say("a line")
        display.show({"loss": 1.0})
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_the_limit_counts_training_alone() -> None:
    with ProgressDisplay(10, 0.05 / 60, enabled=False) as display:
        time.sleep(0.06)
        display.begin(0)
        assert not display.out_of_time
        time.sleep(0.06)
        assert display.out_of_time
