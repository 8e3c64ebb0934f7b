"""A training that shares its folder with another, or loses its files, says so."""

import json
import shutil

import pytest
from training_toy import toy_config

from vla.common.errors import Notice
from vla.common.folder_lock import FolderInUseError, alone
from vla.training import train
from vla.training.checkpoint import prune_checkpoints


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


def test_a_kill_before_the_last_removal_leaves_no_more_checkpoints(data, tmp_path, monkeypatch):
    config = toy_config(data, tmp_path / "run", steps=3, save_every=1, keep_last=1)
    train(config)
    checkpoints = tmp_path / "run/checkpoints"
    undisturbed = {path.name for path in checkpoints.iterdir()}
    shutil.rmtree(tmp_path / "run")

    class Killed(BaseException):
        pass

    def killed(root, *, keep_last):
        if (root / "step-000003").exists():
            raise Killed
        prune_checkpoints(root, keep_last=keep_last)

    monkeypatch.setattr("vla.training.state.prune_checkpoints", killed)
    with pytest.raises(Killed):
        train(config)
    monkeypatch.undo()
    assert len(list(checkpoints.iterdir())) > len(undisturbed)
    train(config, resume=True)
    assert {path.name for path in checkpoints.iterdir()} == undisturbed
