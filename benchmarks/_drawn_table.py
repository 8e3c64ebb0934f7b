"""A table that is drawn, not simulated: two coloured squares, a hand, and an instruction that says which square to touch.

Demonstrations are made in milliseconds, and nothing but the picture and the instruction tells where to go.

L: steps of an episode.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vla.data import DatasetWriter, Episode
from vla.types import Spec

SIZE = 32
STATE = ("hand_x", "hand_y", "gripper")
SCENE = (*STATE, "red_x", "red_y", "blue_x", "blue_y")
ACTIONS = ("dx", "dy", "gripper")
COLOURS = {"red": (220, 40, 30), "blue": (30, 60, 220)}
LENGTH = 14
SPEED = 0.2
Change = Callable[[Episode], dict[str, Any]]


def spec(*, cameras: bool = True, scene: bool = False, limit: float = 1.0) -> Spec:
    """The robot; with `scene` its state also says where the squares are."""
    sizes = {"front": (SIZE, SIZE), "wrist": (SIZE, SIZE)} if cameras else {}
    low, high = (-limit,) * 3, (limit,) * 3
    return Spec(sizes, SCENE if scene else STATE, ACTIONS, low, high, control_hz=10.0)


def episode(number: int, *, cameras: bool = True, scene: bool = False) -> Episode:
    """A hand goes to the square that is asked for, and closes there."""
    rng = np.random.default_rng([17, number])
    places = {colour: rng.uniform(-0.8, 0.8, 2) for colour in COLOURS}
    asked = ("red", "blue")[number % 2]
    hand, gripper = rng.uniform(-0.8, 0.8, 2), -1.0
    states, actions = [], []
    images: dict[str, list[np.ndarray]] = {"front": [], "wrist": []}
    for _ in range(LENGTH):
        seen = [*hand, gripper]
        if scene:
            seen += [*places["red"], *places["blue"]]
        states.append(seen)
        if cameras:
            picture = draw(hand, places)
            images["front"].append(picture)
            images["wrist"].append(closer(picture, hand))
        offset = places[asked] - hand
        near = float(np.linalg.norm(offset)) < 0.15
        step = np.clip(offset / SPEED, -1, 1)
        command = 1.0 if near else -1.0
        actions.append([*step, command])
        # a hand that slips a little: the state says more than the step count
        hand = np.clip(hand + SPEED * step + 0.02 * rng.normal(size=2), -1, 1)
        gripper = 0.5 * gripper + 0.5 * command
    solved = np.arange(LENGTH) == LENGTH - 1
    return Episode(
        images={camera: np.stack(frames) for camera, frames in images.items()} if cameras else {},
        state=np.asarray(states, np.float32),
        actions=np.asarray(actions, np.float32),
        rewards=solved.astype(np.float32),
        success=solved,
        terminated=True,
        instruction=f"Touch the {asked} square",
    )


def draw(hand: np.ndarray, places: dict[str, np.ndarray]) -> np.ndarray:
    """The table from above, uint8 (H, W, 3): brighter at the far side, so that up is not down."""
    rows = np.linspace(190, 110, SIZE)[:, None, None]
    picture = np.broadcast_to(rows * [1.0, 0.85, 0.6], (SIZE, SIZE, 3)).astype(np.uint8).copy()
    for colour, place in places.items():
        _square(picture, place, 3, COLOURS[colour])
    _square(picture, hand, 1, (20, 20, 20))
    return picture


def closer(picture: np.ndarray, hand: np.ndarray) -> np.ndarray:
    """What a camera at the hand sees: a quarter of the table around it, enlarged, darker."""
    padded = np.pad(picture, ((SIZE // 4,) * 2, (SIZE // 4,) * 2, (0, 0)), mode="edge")
    row, column = _pixel(hand)
    part = padded[row : row + SIZE // 2, column : column + SIZE // 2]
    return (part.repeat(2, 0).repeat(2, 1) * 0.6).astype(np.uint8)


def _pixel(place: np.ndarray) -> tuple[int, int]:
    x, y = ((place + 1) / 2 * (SIZE - 1)).round().astype(int)
    return int(y), int(x)


def _square(picture: np.ndarray, place: np.ndarray, half: int, colour: tuple[int, ...]) -> None:
    row, column = _pixel(place)
    picture[max(0, row - half) : row + half + 1, max(0, column - half) : column + half + 1] = colour


def write(
    root: Path,
    episodes: int,
    *,
    first: int = 0,
    change: Change | None = None,
    other_spec: Spec | None = None,
    limit: float = 1.0,
    **options: bool,
) -> Path:
    """A dataset of so many episodes, each changed by `change(episode)` -> the fields that differ."""
    with DatasetWriter(root, other_spec or spec(limit=limit, **options)) as writer:
        made = [episode(number, **options) for number in range(first, first + episodes)]
        # at once: a writer that keeps every episode as it comes would rewrite its file for each
        writer.add_episodes([replace(e, **change(e)) if change else e for e in made])
    return root
