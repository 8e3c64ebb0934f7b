"""Recording, converting and decoding survive SIGKILL at any moment; `benchmarks/kill_soak.py` does this at length."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kill_soak.py"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_nothing_finished_is_lost_and_the_same_call_goes_on():
    command = [sys.executable, str(SCRIPT), "--kills", "3", "--episodes", "6", "--steps", "8", "--json"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert {each["work"] for each in found} == {"recording", "conversion", "decoding"}
    for each in found:
        assert each["kills"] == len(each["kept"]) == 3
        assert each["ended"] >= 1
