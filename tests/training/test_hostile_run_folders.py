"""Files of a run's folder that are damaged or something else: one line, no wait, no line lost."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from accelerate import Accelerator

from vla.common.errors import ConfigError, Notice, UserError
from vla.recipes.doctor.checks.training import _validation_losses
from vla.recipes.online import run_folder
from vla.training import run_directory
from vla.training.checkpoint import save_checkpoint
from vla.training.finetuning.transfer_record import Transfer
from vla.training.metrics import MetricsLog, read_metrics
from vla.training.run_data.data_record import read_record
from vla.training.run_directory import recorded_precision

READERS: dict[str, Callable[[Path], Any]] = {
    "versions.json": recorded_precision,
    "data.json": read_record,
    "transfer.json": Transfer.load,
    "metrics.jsonl": lambda out: read_metrics(out / "metrics.jsonl"),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("put", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_what_would_be_waited_for_is_refused(
    tmp_path: Path, name: str, put: Callable[[Path], Any]
) -> None:
    put(tmp_path / name)
    with pytest.raises(UserError, match=rf"{name}.* is no plain file"):
        READERS[name](tmp_path)


@pytest.mark.parametrize("name", ["versions.json", "data.json", "transfer.json"])
@pytest.mark.parametrize("text", ["", "[1]", "7", '{"a": 1, "a": 2}', "[" * 100_000])
def test_other_values_are_refused(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=name):
        READERS[name](tmp_path)


@pytest.mark.parametrize("damage", ["\x00\x00", "[]", "7", "{}", '{"step": NaN}', '{"step": "1"}'])
def test_one_damaged_line_of_metrics_costs_no_other(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step, "validation/loss": 0.5}) for step in (1, 2, 3)]
    # the counter of online rounds is written so
    lines[2] = lines[2].replace('"step": 3', '"step": 3.0')
    lines[1] = damage
    # a kill cut the last one short
    path.write_text("\n".join(lines) + '\n{"step": 4, "vali')
    with (
        pytest.warns(Notice, match=r"metrics.jsonl: line 2 cannot be read, 1 in all"),
        MetricsLog(path, Accelerator(cpu=True), 3) as log,
    ):
        log.write(4, {"loss": 1.0})
    assert [line["step"] for line in read_metrics(path)] == [1, 3, 4]
    assert _validation_losses(path) == [(1, 0.5), (3, 0.5)]


@pytest.mark.parametrize("opened", [run_directory.open_run, run_folder.open_run])
@pytest.mark.parametrize("resume", [True, False])
def test_a_run_that_lost_its_config_is_not_begun_again(
    tmp_path: Path, opened: Callable[..., Any], resume: bool
) -> None:
    """What begins in its folder would take the place of the policy and cut the metrics off."""
    config = SimpleNamespace(out=str(tmp_path))
    assert opened(config, resume=resume) is None
    save_checkpoint(tmp_path / "checkpoints", 7, lambda folder: None, {}, {"scores": {}})
    with pytest.raises(ConfigError, match=r"step-000007 of a run whose config\.yaml is missing"):
        opened(config, resume=resume)
