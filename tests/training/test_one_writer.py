"""A training that shares its folder with another, or loses its files, says so."""

import json

import pytest
from training_toy import toy_config

from vla.common.errors import Notice
from vla.common.folder_lock import FolderInUseError, alone
from vla.training import train


def test_a_second_training_in_the_same_folder_is_refused(data, tmp_path):
    config = toy_config(data, tmp_path / "run", steps=2, validate_every=None)
    with alone(tmp_path / "run"), pytest.raises(FolderInUseError, match="another process"):
        train(config)
    train(config)


def test_metrics_that_were_deleted_are_missed(data, tmp_path):
    config = toy_config(
        data, tmp_path / "run", steps=4, validate_every=None, log_every=1, evaluate_every=2
    )
    metrics = tmp_path / "run/metrics.jsonl"

    def delete(policy, step):
        metrics.unlink(missing_ok=True)
        return {}

    with pytest.warns(Notice, match="was deleted or replaced .* before step 2 are lost"):
        train(config, evaluate=delete)
    assert json.loads(metrics.read_text().splitlines()[-1])["step"] == 4


def test_what_an_interrupted_removal_left_goes_at_the_end(data, tmp_path):
    config = toy_config(data, tmp_path / "run", steps=2, validate_every=None)
    train(config)
    leftover = tmp_path / "run/checkpoints/.tmp-old-step-000001"
    leftover.mkdir()
    train(config, resume=True)
    assert not leftover.exists()
