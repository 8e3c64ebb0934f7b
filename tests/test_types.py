"""Specs, observations and batches."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vla.types import Batch, Observation, Spec, SpecError

SPEC = Spec({"top": (8, 12), "wrist": (6, 6)}, ("x", "y"), ("dx", "grip"), (-1, 0), (1, 0.5), 10)


def test_spec_survives_json(tmp_path: Path) -> None:
    SPEC.save(tmp_path / "spec.json")
    assert Spec.load(tmp_path / "spec.json") == SPEC


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"action_names": []}, "action_names is empty"),
        ({"action_low": [0]}, "action_low has 1 values for 2"),
        ({"action_low": [2, 0]}, "'dx': needs finite low < high"),
        ({"action_high": [float("nan"), 1]}, "'dx': needs finite"),
        ({"cameras": {"top": [0, 4]}}, "camera 'top': size must be positive"),
        ({"control_hz": 0}, "control_hz must be positive"),
        ({"cameras": 3}, "wrong kind"),
        ({"colour": 1}, "unknown keys colour"),
    ],
)
def test_a_wrong_spec_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "spec.json"
    path.write_text(json.dumps({**SPEC.to_dict(), **change}))
    with pytest.raises(SpecError, match=message) as caught:
        Spec.load(path)
    assert "spec.json" in str(caught.value)


def test_differences_name_each_way_of_not_fitting() -> None:
    other = Spec({"top": (9, 12)}, ("x",), ("dx", "grip"), (-1, 0), (1, 1), 10)
    text = "\n".join(SPEC.differences(other))
    assert "camera 'top' is 9x12, expected 8x12" in text
    assert "camera 'wrist' is missing" in text
    assert "state_names" in text
    assert "action_high" in text
    assert SPEC.differences(SPEC) == []


def test_fake_batch_is_valid_and_seeded() -> None:
    batch = SPEC.fake_batch(3, 4, 2, seed=1)
    assert batch.images["top"].shape == (3, 4, 8, 12, 3)
    assert batch.images["top"].dtype == torch.uint8
    assert batch.actions.shape == (3, 4, 2, 2)
    low, high = torch.tensor(SPEC.action_low), torch.tensor(SPEC.action_high)
    assert bool(((batch.actions >= low) & (batch.actions <= high)).all())
    assert torch.equal(batch.actions, SPEC.fake_batch(3, 4, 2, seed=1).actions)
    batch.observation(-1).check(SPEC)


def test_steps_are_views_of_current_and_next() -> None:
    batch = SPEC.fake_batch(2, 5)
    now, then = batch.steps(0, -1), batch.steps(1, None)
    assert torch.equal(now.state[:, 1:], then.state[:, :-1])
    assert torch.equal(now.images["top"][:, 1:], then.images["top"][:, :-1])
    assert now.instruction == batch.instruction
    assert now.state.data_ptr() == batch.state.data_ptr()


def test_observation_of_one_robot_gets_a_batch_axis() -> None:
    images = {"top": np.zeros((8, 12, 3), np.uint8), "wrist": np.zeros((6, 6, 3), np.uint8)}
    Observation.from_numpy(images, np.zeros(2), "go").check(SPEC)
    with pytest.raises(SpecError, match="lacks camera 'wrist'"):
        Observation.from_numpy({"top": images["top"]}, np.zeros(2), "go").check(SPEC)
    with pytest.raises(SpecError, match="camera 'top': expected uint8"):
        Observation.from_numpy({**images, "top": images["wrist"]}, np.zeros(2), "go").check(SPEC)
    with pytest.raises(SpecError, match="state: expected"):
        Observation.from_numpy(images, np.zeros(3), "go").check(SPEC)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_state_that_is_not_finite_is_named(value: float) -> None:
    observation = SPEC.fake_observation(2)
    observation.state[1, 1] = value
    with pytest.raises(
        SpecError, match="state holds NaN or infinity in y: the simulation has diverged or a sensor"
    ):
        observation.check(SPEC)


@pytest.mark.parametrize(
    ("image", "remedy"),
    [
        (torch.zeros(2, 8, 12, 3), "got float32 (2, 8, 12, 3); give pixels as uint8, 0 to 255"),
        (
            torch.zeros(2, 3, 8, 12, dtype=torch.uint8),
            "(2, 3, 8, 12); put channels last, (B, H, W, 3)",
        ),
        (
            torch.zeros(8, 12, 3, dtype=torch.uint8),
            "(8, 12, 3); the batch axis is missing: add it (image[None])",
        ),
        (torch.zeros(2, 6, 6, 3, dtype=torch.uint8), "(2, 6, 6, 3); render at the policy's size"),
        (
            torch.zeros(1, 8, 12, 3, dtype=torch.uint8),
            "(1, 8, 12, 3); give an image for each of the 2 instructions",
        ),
        (
            torch.zeros(2, 8, 12, 1, dtype=torch.uint8),
            "(2, 8, 12, 1); give RGB images, (B, H, W, 3)",
        ),
        (
            torch.zeros(2, 3, 6, 6),
            "give pixels as uint8, 0 to 255; put channels last, (B, H, W, 3); render at the",
        ),
    ],
)
def test_an_image_that_does_not_fit_says_how_to_mend_it(image: torch.Tensor, remedy: str) -> None:
    observation = SPEC.fake_observation(2)
    with pytest.raises(SpecError, match=re.escape(remedy)):
        dataclasses.replace(observation, images={**observation.images, "top": image}).check(SPEC)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"instruction": None},
            "instruction is None: expected a text for one robot, or a list of B texts",
        ),
        ({"instruction": [1]}, r"instruction is \[1\]: expected a text"),
        ({"images": None}, "images is NoneType: expected a dict"),
        (
            {"images": {"top": None}},
            "camera 'top': is NoneType of object: expected an array of numbers",
        ),
        ({"state": None}, "state: is NoneType of object"),
        ({"state": [[1.0], [1.0, 2.0]], "instruction": ["a", "b"]}, "state: is no array"),
    ],
)
def test_inputs_that_are_no_arrays_or_texts(change: dict[str, Any], message: str) -> None:
    values: dict[str, Any] = {"images": {}, "state": np.zeros(2), "instruction": "go", **change}
    with pytest.raises(SpecError, match=message):
        Observation.from_numpy(**values)


def test_windows_of_a_batch_are_chosen_and_joined_again() -> None:
    batch = SPEC.fake_batch(4, 3, 2)
    assert batch.select(np.arange(4)) is batch  # nothing is copied
    back = batch.select(np.array([2, 0]))
    assert back.instruction == ["do task 2", "do task 0"]
    assert torch.equal(back.images["top"], batch.images["top"][[2, 0]])
    assert torch.equal(back.task_index, batch.task_index[[2, 0]])
    parts = [batch.select(np.array(rows)) for rows in ([0], [1, 2], [3])]
    whole = Batch.concat(parts)
    for field in dataclasses.fields(Batch):
        found, expected = getattr(whole, field.name), getattr(batch, field.name)
        if isinstance(expected, dict):
            assert all(torch.equal(found[name], expected[name]) for name in expected)
        elif field.name == "instruction":
            assert found == expected
        else:
            assert torch.equal(found, expected), field.name
    # of cameras those that all have: replayed data may have been recorded with more
    more = dataclasses.replace(parts[0], images={**parts[0].images, "side": torch.zeros(1)})
    assert list(Batch.concat([more, parts[1]]).images) == ["top", "wrist"]
    assert Batch.concat([more]) is more


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("action_high", ["1", 2.0]),
        ("action_high", [True, 2.0]),
        ("state_names", "xy"),
        ("state_names", [1, 2]),
        ("control_hz", "10"),
        ("cameras", {"front": [32.7, 32]}),
        ("cameras", {"front": [10**6, 10**6]}),
        ("cameras", {"front": [float("inf"), 1]}),
        ("cameras", []),
    ],
)
def test_values_of_another_kind_are_not_turned_into_numbers(key: str, value: object) -> None:
    with pytest.raises(SpecError, match=r"front|spec values of the wrong kind"):
        Spec.from_dict({**SPEC.to_dict(), key: value})
