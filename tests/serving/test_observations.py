"""What clients send -> what the policy sees: keys, sizes, axes, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from vla.common.errors import UserError
from vla.serving.observations import ObservationReader
from vla.serving.pictures import as_pictures, with_borders
from vla.types import Spec


def spec(cameras: list[str], S: int = 2, size: tuple[int, int] = (24, 32)) -> Spec:
    return Spec(
        cameras=dict.fromkeys(cameras, size),
        state_names=tuple(f"joint_{i + 1}" for i in range(S)),
        action_names=("dx",),
        action_low=(-1.0,),
        action_high=(1.0,),
        control_hz=10,
    )


def picture(value: int, shape: tuple[int, ...] = (24, 32, 3)) -> np.ndarray:
    return np.full(shape, value, np.uint8)


LIBERO = {
    "observation/image": picture(1),
    "observation/wrist_image": picture(2),
    "observation/state": np.arange(8, dtype=np.float64),
    "prompt": "open the drawer",
}
DROID = {
    "observation/exterior_image_1_left": picture(1),
    "observation/wrist_image_left": picture(2),
    "observation/joint_position": np.arange(7, dtype=np.float32),
    "observation/gripper_position": np.float32(7),
    "prompt": "fold",
}
ALOHA = {
    "images": {
        name: np.moveaxis(picture(value), -1, 0)
        for value, name in enumerate(("cam_high", "cam_low", "cam_left_wrist", "cam_right_wrist"))
    },
    "state": np.arange(14, dtype=np.float32),
    "prompt": "pour",
}


def test_stock_robots_of_openpi() -> None:
    libero = ObservationReader(spec(["agentview", "robot0_eye_in_hand"], 8)).read(LIBERO)
    assert libero.images["agentview"].max() == 1
    assert libero.images["robot0_eye_in_hand"].max() == 2
    assert libero.state.dtype == np.float32
    droid = ObservationReader(spec(["wrist", "outside"], 8)).read(DROID)
    assert droid.images["wrist"].max() == 2
    assert droid.state.tolist() == [[0, 1, 2, 3, 4, 5, 6, 7]]
    one_axis = {**DROID, "observation/gripper_position": np.array([7.0])}
    assert ObservationReader(spec(["outside"], 8)).read(one_axis).state.shape == (1, 8)
    aloha = ObservationReader(spec(["cam_low", "cam_right_wrist"], 14)).read(ALOHA)
    assert aloha.images["cam_low"].shape == (1, 24, 32, 3)
    assert aloha.images["cam_right_wrist"].max() == 3


def test_keys_that_are_named_come_first_and_guesses_are_not_made() -> None:
    keys = {"observation/wrist_image": "top", "observation/image": "side", "pose": "state"}
    seen = {**LIBERO, "pose": [1.0, 2.0], "side": picture(9)}
    found = ObservationReader(spec(["top", "side"]), keys=keys).read(seen)
    assert found.images["top"].max() == 2
    assert found.images["side"].max() == 1
    assert found.state.tolist() == [[1, 2]]
    joined = {"a": "state", "b": "state", "task": "instruction"}
    parts = {"a": 1.0, "b": [2.0], "task": "x", "observation/top": picture(0)}
    assert ObservationReader(spec(["top"]), keys=joined).read(parts).state.tolist() == [[1, 2]]
    with pytest.raises(UserError, match=r"no picture of camera 'left'.*keys=\{KEY: left\}"):
        # two cameras without a wrist, one picture without a wrist: either could be it
        ObservationReader(spec(["left", "right"], 8)).read(LIBERO)
    with pytest.raises(UserError, match=r"read as 'tpo' .did you mean 'top'"):
        ObservationReader(spec(["top"]), keys={"a": "tpo"})


def test_floats_channels_first_and_several_robots() -> None:
    level = np.linspace(0, 1, 24 * 32 * 3, dtype=np.float32).reshape(24, 32, 3)
    expected = (255 * level).astype(np.uint8)
    assert np.array_equal(as_pictures("x", level, (24, 32), "none"), expected)
    first = np.moveaxis(expected, -1, 0)
    assert np.array_equal(as_pictures("x", first, (24, 32), "none"), expected)
    seen = {
        "images": {"top": np.stack([picture(1), picture(2), picture(3)])},
        "state": np.zeros((3, 2)),
        "prompt": "same for all",
    }
    found = ObservationReader(spec(["top"])).read(seen)
    assert found.batched
    assert found.instructions == ["same for all"] * 3
    # a policy of three rows of pixels: channels last are believed first
    assert as_pictures("x", picture(1, (3, 32, 3)), (3, 32), "none").shape == (3, 32, 3)


def test_sizes() -> None:
    with pytest.raises(UserError, match=r"is 48x48, the policy sees 24x32.*resize=stretch"):
        as_pictures("x", picture(5, (48, 48, 3)), (24, 32), "none")
    assert as_pictures("x", picture(5, (48, 48, 3)), (24, 32), "stretch").shape == (24, 32, 3)
    padded = as_pictures("x", picture(5, (2, 48, 48, 3)), (24, 32), "pad")
    assert padded.shape == (2, 24, 32, 3)
    assert (padded[:, :, :4] == 0).all()
    assert (padded[:, :, 4:28] == 5).all()


def test_borders_are_those_of_openpi() -> None:
    """The formula of `resize_with_pad`: sizes are floors, Pillow's bilinear, borders split by 2."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (37, 53, 3), dtype=np.uint8)
    ratio = max(53 / 32, 37 / 24)
    size = (int(53 / ratio), int(37 / ratio))
    small = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
    expected = Image.new("RGB", (32, 24), 0)
    expected.paste(Image.fromarray(small), ((32 - size[0]) // 2, (24 - size[1]) // 2))
    assert np.array_equal(with_borders(image, (24, 32)), np.asarray(expected))


GOOD: dict[str, Any] = {
    "observation/top": picture(1),
    "observation/state": np.zeros(2, np.float32),
    "prompt": "go",
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"observation/top": None}, "no picture of camera 'top'"),
        ({"observation/top": picture(1, (24, 32))}, "has shape .24, 32., expected one picture"),
        ({"observation/top": picture(1, (24, 32, 4))}, "expected three channels"),
        ({"observation/top": picture(1).astype(np.int64)}, "is int64, expected uint8"),
        ({"observation/top": picture(9).astype(np.float32)}, "floats from 9 to 9, expected 0 to 1"),
        ({"observation/top": np.full((24, 32, 3), np.nan)}, "floats from nan to nan"),
        ({"observation/top": [1, 2]}, "is list, expected an array"),
        ({"observation/state": None}, "the observation has no state: looked for state"),
        ({"observation/state": np.zeros(3)}, r"has shape \(3,\), the policy's state has 2 numbers"),
        ({"observation/state": ["a", "b"]}, "is list, expected numbers"),
        ({"observation/state": [[1.0], [1.0, 2.0]]}, "expected numbers"),
        ({"observation/state": np.array([np.inf, 0])}, "NaN or infinity in joint_1"),
        ({"observation/state": np.zeros((2, 2))}, "differ in the axis of several robots"),
        ({"prompt": None}, "no instruction: send `prompt`.*default_prompt=TEXT"),
        ({"prompt": 3}, "is int, expected a text"),
        ({"prompt": ["a", "b"]}, "has 2 texts for 1 robots"),
        ({"prompt": "x" * 1001}, "has 1001 characters, expected at most 1000"),
    ],
)
def test_bad_observations(changes: dict[str, Any], message: str) -> None:
    seen = {key: value for key, value in {**GOOD, **changes}.items() if value is not None}
    with pytest.raises(UserError, match=message) as raised:
        ObservationReader(spec(["top"])).read(seen)
    assert "\n" not in str(raised.value)


def test_a_default_prompt_and_no_state() -> None:
    reader = ObservationReader(spec(["top"], 0), default_prompt="")
    found = reader.read({"observation/top": picture(1)})
    assert found.instructions == [""]
    assert found.state.shape == (1, 0)
    assert reader.read({"observation/top": np.stack([picture(1)] * 4)}).state.shape == (4, 0)


@pytest.mark.parametrize("count", [0, 257, 100_000])
def test_robots_that_are_none_or_too_many(count: int) -> None:
    """A hundred thousand states are a megabyte, and every other robot would wait for them."""
    reader = ObservationReader(spec([]))
    assert reader.read({"state": np.zeros((256, 2)), "prompt": "x"}).batch_size == 256
    with pytest.raises(UserError, match=f"is of {count} robots, expected 1 to 256"):
        reader.read({"state": np.zeros((count, 2)), "prompt": "x"})
