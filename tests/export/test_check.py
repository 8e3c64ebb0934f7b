"""An exported policy beside the policy itself on recorded episodes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from small_policies import TEXTS, mlp

from vla.data import DatasetWriter, Episode, EpisodeDataset
from vla.export import ExportError, export_onnx, load
from vla.export.agreement import Agreement
from vla.export.check import check_on_data
from vla.models import Policy
from vla.types import Spec, SpecError

SPEC = Spec({}, ("x", "y"), ("dx", "dy", "grip"), (-1.0, -2.0, 0.0), (1.0, 2.0, 0.5), 10)


def write(root: Path, spec: Spec) -> EpisodeDataset:
    rng = np.random.default_rng(0)
    with DatasetWriter(root, spec) as writer:
        for number in range(6):
            length = 5 + number
            writer.add_episode(
                Episode(
                    images={},
                    state=rng.normal(size=(length, 2)).astype(np.float32),
                    actions=np.zeros((length, 3), np.float32),
                    rewards=np.zeros(length, np.float32),
                    success=np.zeros(length, bool),
                    terminated=False,
                    instruction=TEXTS[number % 2],
                )
            )
    return EpisodeDataset(root)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Of an exported policy."""
    out = tmp_path_factory.mktemp("exported") / "out"
    export_onnx(new_policy(), out)
    return out


def new_policy() -> Policy:
    return mlp(SPEC, head={"type": "categorical"})


def test_whole_episodes_are_compared(folder: Path, tmp_path):
    policy = new_policy()
    exported = load(folder)
    dataset = write(tmp_path / "set", SPEC)
    found = check_on_data(policy, exported, dataset)
    assert found.steps == sum(range(5, 11))
    assert found.tokens == found.steps * 6
    assert found.is_exact
    assert found.logit_difference is not None
    assert 0 < found.logit_difference < 1e-4
    # an episode is not left in the middle, nor is a second one begun
    assert 5 <= check_on_data(policy, exported, dataset, steps=1).steps <= 10
    # another training of the same sizes
    with torch.no_grad():
        policy.head.bias.add_(1.0)
    with pytest.raises(ExportError, match=r"from another policy: the weights of .* by --policy"):
        check_on_data(policy, exported, dataset)


def test_a_dataset_of_another_robot_is_refused(folder: Path, tmp_path):
    other = write(tmp_path / "set", dataclasses.replace(SPEC, state_names=("x", "z")))
    with pytest.raises(SpecError, match=r"does not fit the policy: state_names are \['x', 'z'\]"):
        check_on_data(new_policy(), load(folder), other)


@pytest.mark.parametrize(
    ("found", "is_exact"),
    [
        (Agreement(tokens=1000, unequal=1, unexplained=0), True),
        (Agreement(tokens=1000, unequal=2, unexplained=0), False),
        (Agreement(tokens=1000, unequal=1, unexplained=1), False),
        (Agreement(tokens=0, action_difference=0.0009), True),
        (Agreement(tokens=0, action_difference=0.0011), False),
    ],
)
def test_what_rounding_explains(found: Agreement, is_exact: bool):
    assert found.is_exact == is_exact
