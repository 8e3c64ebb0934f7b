"""Captions of scenes: true of the state, the same for a seed, held out where they shall be."""

from __future__ import annotations

import json

import numpy as np
import pytest

from vla.config import ConfigError
from vla.data.loading.image_text import ImageTextPairs
from vla.sim_eval.collection.captions import CaptionsConfig, write_captions
from vla.sim_eval.envs.tabletop import TabletopConfig, TabletopEnv
from vla.sim_eval.envs.tabletop_parts.language import HELD_OUT_PAIRS, Thing
from vla.sim_eval.envs.tabletop_parts.scene import DRAWER_TRAVEL, SHAPES

ENV = {"type": "tabletop", "tasks": ["place", "open-drawer"], "cameras": ["front"]}


@pytest.fixture(scope="module")
def env():
    made = TabletopConfig(image_size=32, cameras=("front",)).make("reach")
    yield made
    made.close()


def laid(env: TabletopEnv, places: dict[str, tuple[float, float]]) -> TabletopEnv:
    """Three things at these places, the bowl at the left, the tray at the right, drawer shut."""
    env.reset(seed=0)
    env.table.things = tuple(Thing(*name.split()) for name in places)
    env.table.place_fixture("bowl", -0.15, 0.0)
    env.table.place_fixture("tray", 0.15, 0.0)
    env.table.set_drawer(0.0)
    for slot, (x, y) in enumerate(places.values()):
        height = SHAPES[env.table.things[slot].shape].half_height
        env.table.place(slot, np.array([x, y, height]), 0.0)
    return env


def said(env: TabletopEnv, seed: int = 0) -> dict[str, str]:
    return {c.question: c.answer for c in env.captions(np.random.default_rng(seed))}


def test_a_scene_by_hand(env):
    found = said(
        laid(env, {"red cube": (-0.15, 0), "blue ball": (0, 0.05), "green ball": (0.24, 0)})
    )
    presence = {question: found.pop(question) for question in list(found) if "there a" in question}
    assert len(presence) == 1
    assert found == {
        "What colour is the cube?": "The cube is red.",
        "What shape is the red object?": "The red object is a cube.",
        "What shape is the blue object?": "The blue object is a ball.",
        "What shape is the green object?": "The green object is a ball.",
        "Is the blue ball left or right of the bowl?": "The blue ball stands right of the bowl.",
        "Is the blue ball left or right of the tray?": "The blue ball stands left of the tray.",
        "Is the green ball left or right of the bowl?": "The green ball stands right of the bowl.",
        "Is the green ball left or right of the tray?": "The green ball stands right of the tray.",
        "Which objects are there, from left to right?": (
            "A red cube, a blue ball and a green ball."
        ),
        "What is in the bowl?": "A red cube is in the bowl.",
        "What is in the tray?": "The tray is empty.",
        "Is the drawer open or closed?": "The drawer is closed.",
    }


def test_what_could_be_argued_with_is_not_asked(env):
    laid(env, {"red cube": (-0.11, 0.08), "red ball": (0, 0.05), "blue ball": (0.2, 0.1)})
    env.table.set_drawer(DRAWER_TRAVEL / 2)
    questions = set(said(env))
    assert not {q for q in questions if "drawer" in q or "the red object" in q or "the ball?" in q}
    assert "Is the red cube left or right of the bowl?" not in questions  # 4 cm aside
    assert "Is the red cube left or right of the tray?" in questions


def test_presence_is_balanced_and_tells_nothing_by_what_is_held_out(env):
    env.reset(seed=1)
    asked = [said(env, seed) for seed in range(200)]
    answers = [a for scene in asked for q, a in scene.items() if q.startswith("Is there a")]
    assert 70 < sum(answer.startswith("Yes") for answer in answers) < 130
    names = {f"{colour} {shape}" for colour, shape in HELD_OUT_PAIRS}
    assert not [answer for answer in answers if any(name in answer for name in names)]
    for answer in answers:
        there = answer.split(" a " if answer.startswith("Yes") else " no ")[-1].rstrip(".")
        assert answer.startswith("Yes") == (there in {str(thing) for thing in env.table.things})


def test_folders_of_pairs(tmp_path):
    values = {"env": {**ENV, "image_size": 32}, "scenes": 9, "held_out_scenes": 4}
    seen = []
    made = {}
    for name in ("one", "two"):
        config = CaptionsConfig.model_validate({**values, "out": str(tmp_path / name)})
        made[name] = write_captions(config, progress=lambda done, total: seen.append((done, total)))
    assert made["one"] == made["two"] == {"train": 36, "held_out": 16}
    assert seen == [(done, 13) for done in range(1, 14)] * 2
    for part in ("train", "held_out"):
        pairs = ImageTextPairs(tmp_path / "one" / part)
        other = ImageTextPairs(tmp_path / "two" / part)
        assert pairs.rows == other.rows
        assert pairs.kinds == other.kinds
        images = pairs.batch(np.arange(len(pairs))).images
        assert all(image.shape == (32, 32, 3) for image in images)
        # four questions of a scene are of four kinds
        for number in range(0, len(pairs), 4):
            assert len(set(pairs.kinds[number : number + 4])) == 4
    pictures = [(tmp_path / "one" / part).glob("*.png") for part in ("train", "held_out")]
    train, held_out = ({path.read_bytes() for path in found} for found in pictures)
    assert len(train) == 9
    assert not train & held_out
    lines = (tmp_path / "one/train/metadata.jsonl").read_text().splitlines()
    assert set(json.loads(lines[0])) == {"file_name", "prompt", "answer", "kind"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"camera": "wrist"}, "camera: no 'wrist'; the env has front"),
        ({"out": "."}, "out: .* is not empty"),
    ],
)
def test_what_is_refused(tmp_path, changes, message):
    (tmp_path / "file").touch()
    values = {"env": ENV, "out": str(tmp_path / "new"), **changes}
    if "out" in changes:
        values["out"] = str(tmp_path)
    with pytest.raises(ConfigError, match=message):
        write_captions(CaptionsConfig.model_validate(values))


def test_an_env_without_words(tmp_path, monkeypatch):
    monkeypatch.setattr(TabletopEnv, "captions", lambda self, rng: ())
    config = CaptionsConfig.model_validate({"env": ENV, "out": str(tmp_path / "new")})
    with pytest.raises(ConfigError, match="env: place has no words for its scenes"):
        write_captions(config)
    assert not (tmp_path / "new").exists()
