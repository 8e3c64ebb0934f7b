"""A training of two processes, one of which is lost: the other ends with one line, and both go on together."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HELPERS = Path(__file__).parents[2] / "helpers"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signal", "lost", "said"),
    [
        ("SIGKILL", 1, "another process of this training has ended"),
        ("SIGSTOP", 1, "process 1 of this training has not answered"),
        ("SIGSTOP", 0, "process 0 of this training has not answered"),
    ],
)
def test_the_other_ends_with_one_line(
    data: Path, tmp_path: Path, signal: str, lost: int, said: str
) -> None:
    command = [sys.executable, str(HELPERS / "lost_process.py")]
    command += [str(data), str(tmp_path / "run"), signal, str(lost)]
    path = os.pathsep.join([str(HELPERS), *sys.path])
    found = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert found.returncode == 0, found.stderr[-3000:]
    before, _, _ = found.stderr.partition("resumed")
    errors = [line for line in before.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, found.stderr
    assert said in errors[0]
    assert "--resume" in errors[0]
    assert "Traceback" not in before
