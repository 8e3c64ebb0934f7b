"""Reward models that really learn on a small problem, and the runs that make them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reward_toys as toys
import torch
from typer.testing import CliRunner

from vla.cli import app
from vla.config import ConfigError, load_config
from vla.data import EpisodeDataset
from vla.models.rewards.base import RewardError
from vla.models.rewards.storage import load_reward
from vla.training.reward_learning.config import RewardTrainConfig
from vla.training.reward_learning.learning import RewardResult, learn_reward
from vla.training.reward_learning.measures import auc, precision_and_recall
from vla.training.reward_learning.reward_columns import write_rewards


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("rewards")
    toys.write(root / "data", 180)
    toys.write(root / "expert", 20, seed=1, kinds=("expert",))
    return root


def config(root: Path, out: Path, **changes: Any) -> RewardTrainConfig:
    settings = {
        "out": str(out),
        "data": {"path": str(root / "data"), "validation_fraction": 0.25},
        "policy": {"type": "mlp", "hidden": 8, "language": "minilm"},
        "model": {"type": "classifier", "hidden": 32},
        "optim": {"lr": 3e-3, "warmup_steps": 0},
        "steps": 300,
        "batch_size": 64,
        "validate_every": None,
        "save_every": None,
        **changes,
    }
    return load_config(RewardTrainConfig, settings)


@pytest.fixture(scope="module")
def classifier(root: Path) -> RewardResult:
    return learn_reward(config(root, root / "classifier"))


def test_the_classifier_reads_words_and_sees_success_at_its_step(
    classifier: RewardResult,
) -> None:
    found = classifier.measures
    assert found["episode_auc"] > 0.98
    assert found["wrong_instruction_auc"] > 0.98
    assert found["false_alarms/wrong_instruction"] <= 0.1
    assert found["found"] > 0.8
    # the state behind the last action is in no file: who waits for it is late, or never there
    assert -0.6 < found["late"] < 0.2
    stored = load_reward(classifier.out)
    assert stored.card["held out"] == found
    assert float(stored.threshold) == pytest.approx(found["threshold"])


def test_a_dataset_gets_its_rewards_or_columns_of_them(
    classifier: RewardResult, root: Path, tmp_path: Path
) -> None:
    source = EpisodeDataset(root / "data")
    made = EpisodeDataset(write_rewards(classifier.out, root / "data", tmp_path / "scored").root)
    rewards = made.columns.rewards
    assert ((rewards >= 0) & (rewards <= 1)).all()
    agreement = (made.columns.success == source.columns.success).mean()
    assert agreement > 0.95
    np.testing.assert_array_equal(made.columns.actions, source.columns.actions)
    assert (
        made.episodes["info"]
        .map(json.loads)
        .map(lambda info: info.get("achieved"))
        .equals(source.episodes["info"].map(json.loads).map(lambda info: info.get("achieved")))
    )
    command = ["data", "score", str(root / "data"), str(tmp_path / "columns"), "--columns"]
    result = CliRunner().invoke(app, [*command, "--reward", str(classifier.out)])
    assert result.exit_code == 0, result.output
    beside = EpisodeDataset(tmp_path / "columns")
    np.testing.assert_array_equal(beside.columns.rewards, source.columns.rewards)
    np.testing.assert_allclose(beside.columns.extras["learned_reward"], rewards, atol=1e-6)
    assert "learned_success" in beside.columns.extras
    # the same call changes nothing, another one is refused
    again = CliRunner().invoke(app, [*command, "--reward", str(classifier.out)])
    assert again.exit_code == 0
    assert "were there" in again.output
    other = CliRunner().invoke(app, [*command[:-1], "--reward", str(classifier.out)])
    assert other.exit_code == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give one of --values RUN and --reward FOLDER"),
        (["--reward", "{reward}", "--values", "x"], "give one of"),
        (["--reward", "{reward}", "--step", "3"], "leave it out with --reward"),
        (["--values", "x", "--columns"], "values are columns anyhow"),
        (["--reward", "{root}/none"], "no such checkpoint folder"),
    ],
)
def test_the_command_refuses_what_contradicts_itself(
    classifier: RewardResult, root: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    given = [text.format(reward=classifier.out, root=root) for text in options]
    command = ["data", "score", str(root / "data"), str(tmp_path / "x"), *given]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


def test_who_does_not_read_words_is_not_judged_by_wrong_ones(root: Path, tmp_path: Path) -> None:
    toys.write(tmp_path / "data", 60)
    settings = config(
        root,
        tmp_path / "run",
        data={"path": str(tmp_path / "data"), "validation_fraction": 0.5},
        policy={"type": "mlp", "hidden": 8},
        steps=20,
    )
    found = learn_reward(settings).measures
    assert "found" in found
    assert not any("wrong_instruction" in name for name in found)


def test_progress_grows_until_success(root: Path, tmp_path: Path) -> None:
    model = {"type": "progress", "hidden": 32, "bins": 51}
    found = learn_reward(config(root, tmp_path, model=model)).measures
    assert found["progress_correlation"] > 0.8
    assert found["episode_auc"] > 0.95


def test_preferences_order_episodes(root: Path, tmp_path: Path) -> None:
    model = {"type": "preference", "hidden": 32, "segment": 6, "pairs": 300}
    result = learn_reward(config(root, tmp_path, model=model, batch_size=192))
    assert result.measures["pair_accuracy"] > 0.9
    assert result.measures["episode_auc"] > 0.9


def test_the_discriminator_tells_the_expert_from_others(root: Path, tmp_path: Path) -> None:
    settings = config(
        root,
        tmp_path,
        model={"type": "discriminator", "hidden": 32},
        demonstrations={"path": str(root / "expert")},
        steps=100,
    )
    result = learn_reward(settings)
    assert result.measures["episode_auc"] > 0.8
    scored = EpisodeDataset(
        write_rewards(tmp_path, root / "data", tmp_path / "scored", columns=True).root
    )
    assert scored.columns.extras["learned_reward"].max() <= 0  # log D


def test_maxent_needs_no_steps(root: Path, tmp_path: Path) -> None:
    settings = config(
        root,
        tmp_path,
        policy=None,
        model={"type": "maxent", "clusters": 20},
        demonstrations={"path": str(root / "expert")},
    )
    assert learn_reward(settings).step == 0
    lines = [json.loads(text) for text in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["log_likelihood"] < 0
    assert load_reward(tmp_path).psi.abs().sum() > 0


def test_a_run_that_was_cut_off_ends_as_one_that_was_not(root: Path, tmp_path: Path) -> None:
    def run(out: Path, **changes: Any) -> RewardTrainConfig:
        model = {"type": "classifier", "hidden": 16}
        return config(root, out, model=model, steps=40, save_every=20, imitation=0.5, **changes)

    whole = learn_reward(run(tmp_path / "whole"))
    # stopped by its time after the first step, as a kill behind a checkpoint would
    learn_reward(run(tmp_path / "cut", max_minutes=1e-9))
    with pytest.raises(ConfigError, match="holds a run already"):
        learn_reward(run(tmp_path / "cut"))
    resumed = learn_reward(run(tmp_path / "cut"), resume=True)
    assert resumed.step == whole.step == 40
    for name, tensor in whole.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], tensor, rtol=0, atol=0)
    policy = whole.model.policy
    assert policy is not None
    assert "imitation_loss" in (tmp_path / "whole" / "metrics.jsonl").read_text()


def test_a_frozen_trunk_stays_as_it_is(
    root: Path, classifier: RewardResult, tmp_path: Path
) -> None:
    source = classifier.out / "reward" / "policy"
    model = {"type": "classifier", "hidden": 8, "freeze_trunk": True}
    changes = {"policy": None, "init_from": str(source), "model": model, "steps": 5}
    learned = learn_reward(config(root, tmp_path, **changes))
    before, after = classifier.model.policy, learned.model.policy
    assert before is not None
    assert after is not None
    for name, tensor in before.state_dict().items():
        torch.testing.assert_close(after.state_dict()[name], tensor, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policy": None}, "policy: is required: model classifier reads a trunk"),
        ({"model": {"type": "discriminator"}}, "demonstrations: is required"),
        ({"model": {"type": "maxent"}}, "model maxent reads no policy"),
        ({"demonstrations": {"path": "x"}}, "learns from data alone"),
        ({"model": {"type": "clasifier"}}, "did you mean 'classifier'"),
        (
            {"imitation": 1.0, "model": {"type": "classifier", "freeze_trunk": True}},
            "which model.freeze_trunk keeps as it is",
        ),
    ],
)
def test_configs_that_contradict_themselves(
    root: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        config(root, tmp_path, **changes)


def test_data_that_teach_nothing_are_refused(root: Path, tmp_path: Path) -> None:
    toys.write(tmp_path / "lost", 12, kinds=("lost",))
    data = {"path": str(tmp_path / "lost")}
    with pytest.raises(RewardError, match="no step is solved"):
        learn_reward(config(root, tmp_path / "out", data=data))


def test_the_measures_by_hand() -> None:
    assert auc(np.array([0.9, 0.5]), np.array([0.5, 0.1])) == 0.875
    assert np.isnan(auc(np.array([]), np.array([1.0])))
    called, solved = np.array([True, True, False, False]), np.array([True, False, True, True])
    found = precision_and_recall(called, solved)
    assert found == {"precision": 0.5, "recall": pytest.approx(1 / 3)}
