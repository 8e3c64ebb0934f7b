"""Features of LeRobot datasets under all the names that makers give them: what is read as what, and what
is said of the rest."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_lerobot import values_of, vector, write_v2

from vla.config.loading import load_config
from vla.data import DataError, EpisodeDataset, KeyMap

STATE = "observation.state"
ACTION = {"action": vector(2, names=["dx", "dy"])}


def opened(root: Path, *settings: str) -> EpisodeDataset:
    """With keys as they are typed at a command, quotes of the shell taken off."""
    return EpisodeDataset(
        root, keys=load_config(KeyMap, {}, [s.replace("'", "") for s in settings])
    )


def joined(*names: tuple[str, int], episode: int = 0, L: int = 6) -> np.ndarray:
    return np.concatenate([values_of(name, episode, L, width) for name, width in names], axis=1)


# name of the case -> features, (feature, width) of the state and of the action, words of the warning
READ: dict[str, tuple[dict[str, Any], list[tuple[str, int]], list[tuple[str, int]], list[str]]] = {
    "usual": ({STATE: vector(3), **ACTION}, [(STATE, 3)], [("action", 2)], []),
    "openpi": ({"state": vector(3), "actions": vector(2)}, [("state", 3)], [("actions", 2)], []),
    "one vector": (
        {"observation.joint_positions": vector(3), **ACTION},
        [("observation.joint_positions", 3)],
        [("action", 2)],
        ["`state=[observation.joint_positions]`"],
    ),
    "environment alone": (
        {"observation.environment_state": vector(5), **ACTION},
        [("observation.environment_state", 5)],
        [("action", 2)],
        ["`state=[observation.environment_state]`"],
    ),
    "parts of the state": (
        {f"{STATE}.arm": vector(3), f"{STATE}.grip": vector(1), "observation.x": vector(2), **ACTION},
        [(f"{STATE}.arm", 3), (f"{STATE}.grip", 1)],
        [("action", 2)],
        [
            f"`state=[{STATE}.arm,{STATE}.grip]`",
            f"observation.x [2]; `state=[{STATE}.arm,{STATE}.grip,observation.x]`",
        ],
    ),
    "a number per joint": (
        {"observation.a.pos": vector(1), "observation.b.pos": vector(1), **ACTION},
        [("observation.a.pos", 1), ("observation.b.pos", 1)],
        [("action", 2)],
        ["`state=[observation.a.pos,observation.b.pos]`"],
    ),
    "two vectors": (
        {"observation.arm": vector(3), "observation.base": vector(2), **ACTION},
        [],
        [("action", 2)],
        ["numbers that are not read", "`state=[observation.arm,observation.base]`"],
    ),
    "more than the state": (
        {STATE: vector(3), "observation.environment_state": vector(2), **ACTION},
        [(STATE, 3)],
        [("action", 2)],
        [f"`state=[{STATE},observation.environment_state]`"],
    ),
    "parts of the action": (
        {STATE: vector(3), "action.joints": vector(3), "action.gripper": vector(1)},
        [(STATE, 3)],
        [("action.joints", 3), ("action.gripper", 1)],
        ["`action=[action.joints,action.gripper]`"],
    ),
    "a number per action": (
        {STATE: vector(3), "action.x": vector(1), "action.y": vector(1)},
        [(STATE, 3)],
        [("action.x", 1), ("action.y", 1)],
        ["`action=[action.x,action.y]`"],
    ),
    "a second action": (
        {STATE: vector(3), **ACTION, "action.original": vector(2)},
        [(STATE, 3)],
        [("action", 2)],
        ["`action=[action.original]` reads them as the action instead of action"],
    ),
    "reward, success and a text": (
        {STATE: vector(3), **ACTION, "reward": vector(1), "is_success": vector(1), "words": vector(1, dtype="string")},
        [(STATE, 3)],
        [("action", 2)],
        ["`reward=reward`", "`success=is_success`", "`instruction=words`"],
    ),
    "images as numbers, and what nobody knows": (
        {STATE: vector(3), **ACTION, "observation.picture": vector(16, 24, 3, dtype="uint8"), "cloud": vector(4, dtype="points")},
        [(STATE, 3)],
        [("action", 2)],
        ["observation.picture [16, 24, 3]", "cloud (points)"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", READ)
def test_what_is_read_and_what_is_not(tmp_path, case):
    features, state, action, sentences = READ[case]
    dataset = EpisodeDataset(write_v2(tmp_path / "d", features))
    columns = dataset.columns
    np.testing.assert_array_equal(columns.actions[:6], joined(*action))
    assert columns.state.shape[1] == sum(width for _, width in state)
    if state:
        np.testing.assert_array_equal(columns.state[:6], joined(*state))
    said = "\n".join(dataset.warnings)
    for sentence in sentences:
        assert sentence in said
    assert bool(sentences) == bool(said)


ALTERNATIVES = {
    STATE: vector(3),
    "action.joint_position": vector(3),
    "action.cartesian_position": vector(3),
}


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (ALTERNATIVES, r"`action=\[action.joint_position,action.cartesian_position\]`"),
        ({STATE: vector(3), "command": vector(2)}, r"`action=\[command\]`"),
        (
            {STATE: vector(3), "action": vector(4, 2)},
            r"chunk of 4 actions.*`action='\[\"action\[:2\]\"\]'`.*`action=\[action\]`",
        ),
    ],
)
def test_an_action_that_has_two_meanings_is_asked_for(tmp_path, features, message):
    with pytest.raises(DataError, match=message):
        EpisodeDataset(write_v2(tmp_path / "d", features))


def test_the_first_of_a_chunk_by_the_key_that_is_named(tmp_path):
    root = write_v2(tmp_path / "d", {STATE: vector(3), "action": vector(4, 2)})
    dataset = opened(root, """action='["action[:2]"]'""")
    np.testing.assert_array_equal(dataset.columns.actions[:6], values_of("action", 0, 6, 8)[:, :2])
    assert opened(root, "action=[action]").spec.action_dim == 8


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a", "b", "c"], ("a", "b", "c")),
        ([["a", "b", "c"]], ("a", "b", "c")),
        ({"motors": ["a", "b", "c"]}, ("a", "b", "c")),
        ({"axes": {"c": 2, "a": 0, "b": 1}}, ("a", "b", "c")),
        ({"left": ["a", "b"], "right": ["c"]}, ("a", "b", "c")),
        ({"a": 0, "b": 1, "c": 2}, ("a", "b", "c")),
        (["state"], ("state_0", "state_1", "state_2")),
        (None, ("state_0", "state_1", "state_2")),
        (["a", "b"], None),
        ({"motors": ["a", "b", "c", "d"]}, None),
    ],
)
def test_names_in_any_nesting(tmp_path, names, expected):
    dataset = EpisodeDataset(write_v2(tmp_path / "d", {STATE: vector(3, names=names), **ACTION}))
    assert dataset.spec.state_names == (expected or ("state_0", "state_1", "state_2"))
    said = "\n".join(dataset.warnings)
    assert (f"names of '{STATE}' are {2 if names == ['a', 'b'] else 4}" in said) == (not expected)
    assert expected is None or not said


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        (["state=[b]"], ("b",)),
        (["""state=["observation.state[2,0]",dy]"""], ("c", "a", "dy")),
    ],
)
def test_parts_of_features(tmp_path, settings, names):
    root = write_v2(tmp_path / "d", {STATE: vector(3, names=["a", "b", "c"]), **ACTION})
    dataset = opened(root, *settings)
    assert dataset.spec.state_names == names
    state, action = values_of(STATE, 0, 6, 3), values_of("action", 0, 6, 2)
    known = dict(
        zip(("a", "b", "c", "dx", "dy"), np.concatenate([state, action], 1).T, strict=True)
    )
    np.testing.assert_array_equal(dataset.columns.state[:6].T, [known[name] for name in names])
    with pytest.raises(DataError, match=r"state: no feature 'elbow'; there are: observation.state"):
        opened(root, "state=[elbow]")


def test_success_is_taken_from_rewards_and_what_is_recorded_is_known(tmp_path):
    features = {STATE: vector(3), **ACTION}
    root = write_v2(tmp_path / "d", {**features, "next.reward": vector(1)})
    assert EpisodeDataset(root).reader.recorded == {"rewards"}
    dataset = opened(root, "success=rewards")
    assert dataset.reader.recorded == {"rewards", "success"}
    assert dataset.columns.success.all()
    with pytest.raises(DataError, match=r"success=rewards: .*no 'next.reward'.*`reward=COLUMN`"):
        opened(write_v2(tmp_path / "e", features), "success=rewards")


def test_a_column_that_is_only_declared_and_one_that_is_only_there(tmp_path):
    root = write_v2(tmp_path / "d", {STATE: vector(3), **ACTION, "observation.more": vector(2)})
    path = root / "meta/info.json"
    info = json.loads(path.read_text())
    del info["features"]["observation.more"]
    info["features"]["next.reward"] = vector(1)
    path.write_text(json.dumps(info))
    dataset = EpisodeDataset(root)
    said = "\n".join(dataset.warnings)
    assert "does not list are not read: observation.more" in said
    assert "lacks the column 'next.reward'" in said
    assert not dataset.columns.rewards.any()
    assert "rewards" not in dataset.reader.recorded


@pytest.mark.parametrize("key", ["info", "video_info"])
def test_depth_cameras_are_left_out_by_name(tmp_path, key):
    root = write_v2(tmp_path / "d", {STATE: vector(3), **ACTION}, cameras=["front", "depth"])
    path = root / "meta/info.json"
    info = json.loads(path.read_text())
    info["features"]["observation.images.depth"][key] = {"video.is_depth_map": True}
    path.write_text(json.dumps(info))
    dataset = EpisodeDataset(root)
    assert list(dataset.spec.cameras) == ["front"]
    assert "`cameras.depth=observation.images.depth`" in "\n".join(dataset.warnings)
    chosen = opened(root, "cameras.depth=observation.images.depth")
    assert list(chosen.spec.cameras) == ["depth"]


def test_shapes_with_channels_first(tmp_path):
    root = write_v2(tmp_path / "d", {STATE: vector(3), **ACTION}, cameras=["front"])
    path = root / "meta/info.json"
    info = json.loads(path.read_text())
    for names in (["channels", "height", "width"], ["height", "width", "channels"], None):
        feature = {"dtype": "video", "shape": [3, 16, 24], "names": names}
        info["features"]["observation.images.front"] = feature
        path.write_text(json.dumps(info))
        assert EpisodeDataset(root).spec.cameras == {"front": (16, 24)}


# --- GR00T's modality.json ------------------------------------------------------------------------

MODALITY = {
    "state": {"left_arm": {"start": 0, "end": 2}, "gripper": {"start": 2, "end": 3}},
    "action": {
        "left_arm": {"start": 0, "end": 1},
        "base": {"start": 0, "end": 2, "original_key": "extra"},
    },
    "video": {"ego": {"original_key": "observation.images.front"}},
    "annotation": {"human.task": {"original_key": "words"}},
}


@pytest.fixture
def groot(tmp_path: Path) -> Path:
    features = {
        STATE: vector(3, names=["m0", "m1", "m2"]),
        "action": vector(2),
        "extra": vector(2),
        "words": vector(1, dtype="string"),
    }
    root = write_v2(tmp_path / "d", features, cameras=["front"])
    (root / "meta/modality.json").write_text(json.dumps(MODALITY))
    return root


def test_modality_names_dimensions_and_cameras(groot):
    spec = EpisodeDataset(groot).spec
    assert spec.state_names == ("left_arm_0", "left_arm_1", "gripper")
    assert spec.action_names == ("left_arm", "action_1")
    assert list(spec.cameras) == ["ego"]


@pytest.mark.parametrize(
    ("settings", "state", "action"),
    [
        (["state=[gripper,left_arm]"], [2, 0, 1], [("action", 0), ("action", 1)]),
        (["""state=["left_arm[1]",m2]"""], [1, 2], [("action", 0), ("action", 1)]),
        (["action=[left_arm,base]"], [0, 1, 2], [("action", 0), ("extra", 0), ("extra", 1)]),
    ],
)
def test_keys_name_the_parts_of_modality(groot, settings, state, action):
    columns = opened(groot, *settings).columns
    np.testing.assert_array_equal(columns.state[:6], values_of(STATE, 0, 6, 3)[:, state])
    expected = np.stack([values_of(name, 0, 6, 2)[:, dim] for name, dim in action], 1)
    np.testing.assert_array_equal(columns.actions[:6], expected)


def test_annotations_of_modality_are_instructions(groot):
    assert opened(groot, "instruction=human.task").instructions == ["text 0", "text 1", "text 2"]
    cameras = opened(groot, "cameras.eye=ego").spec.cameras
    assert list(cameras) == ["eye"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "modality.json: is no JSON"),
        ('{"state": {"arm": {"start": 2, "end": 9}}}', "state: 'arm' is .* which is no range"),
        (
            '{"state": {"arm": {"start": 0, "end": 2, "original_key": "none"}}}',
            "'arm' is .*no range",
        ),
    ],
)
def test_a_modality_that_does_not_fit_is_a_warning(groot, content, message):
    (groot / "meta/modality.json").write_text(content)
    dataset = EpisodeDataset(groot)
    assert dataset.spec.state_names == ("m0", "m1", "m2")
    assert re.search(message, "\n".join(dataset.warnings))
