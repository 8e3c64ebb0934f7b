from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from training_toy import toy_config

from vla.training import train

HELPERS = Path(__file__).parents[1] / "helpers"
SCRIPT = """
import sys
from pathlib import Path
from training_toy import toy_config
from vla.training import train
train(toy_config(Path(sys.argv[1]), Path(sys.argv[2]), **eval(sys.argv[3])))
"""


def test_two_processes_give_the_curve_of_one(data: Path, tmp_path: Path) -> None:
    """Windows of an episode's start are shorter, so that the processes' shares of the valid steps differ."""
    changes = {
        "steps": 15,
        "policy": {"history": 4, "chunk": 2},
        "grad_accumulation": 2,
        "validate_every": 5,
        "precision": "no",  # `auto` is bf16 on some CPUs, whose sums differ by their order
    }
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    # `accelerate launch --cpu` starts one process, whatever --num_processes says; this starts two.
    launch = [
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
    ]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    run = subprocess.run(
        [sys.executable, *launch, str(script), str(data), str(tmp_path / "two"), repr(changes)],
        env={
            **os.environ,
            "ACCELERATE_USE_CPU": "true",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": f"{HELPERS}:{HELPERS.parents[1]}",
        },
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.count("2 x cpu") == 1  # one process reports
    train(toy_config(data, tmp_path / "one", **changes))
    one, two = (
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    )
    assert [line["step"] for line in two] == list(range(1, 16))
    for key in ("loss", "grad_norm"):
        assert [line[key] for line in two] == pytest.approx([line[key] for line in one], rel=1e-4)
    scores = [
        [line["validation/loss"] for line in lines if "validation/loss" in line]
        for lines in (one, two)
    ]
    assert len(scores[0]) == 3
    assert scores[1] == pytest.approx(scores[0], rel=1e-4)
