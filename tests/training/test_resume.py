from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

HELPERS = Path(__file__).parents[1] / "helpers"


def test_killed_five_times_the_losses_are_those_of_an_uninterrupted_run(
    data: Path, tmp_path: Path
) -> None:
    run = subprocess.run(
        [sys.executable, str(HELPERS / "kill_and_resume.py"), str(data), str(tmp_path), "5"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{HELPERS}:{HELPERS.parents[1]}"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.count("killed after") == 5

    def losses(name: str) -> list[tuple[float, ...]]:
        lines = [
            json.loads(line)
            for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        ]
        keys = ("step", "loss", "grad_norm", "lr", "validation/loss", "validation/action_error")
        return [tuple(line.get(key, -1.0) for key in keys) for line in lines]

    whole = losses("whole")
    assert [int(line[0]) for line in whole] == list(range(1, 61))
    assert losses("killed") == whole
    weights = "policy/model.safetensors"
    assert (tmp_path / "killed" / weights).read_bytes() == (
        tmp_path / "whole" / weights
    ).read_bytes()
