"""Where the pieces of a scene stand: in view of the robot's start, and far enough apart.

The robot starts at the origin and looks along x. Things stand more than 2 m apart, so that being
near the right one is not being near another: with QUARD's rule, within 1 m of the target at any
time, a walk to any thing would often count.
"""

from __future__ import annotations

import numpy as np

from vla.sim_eval.envs.quadruped_parts.language import Command
from vla.sim_eval.envs.quadruped_parts.scene import BAR_HIGHEST, BAR_LOWEST, Layout

APART = 2.05
"""Least distance of two things, metres."""
PASSAGE = 1.55
"""Least distance of the obstacle from the things that are not asked for."""
WIDEST = 0.57
"""Greatest angle from straight ahead, radians; the camera sees 0.70 to each side."""
NEAREST, FARTHEST = 2.3, 4.3


def lay_out(rng: np.random.Generator, command: Command, words: dict[str, str]) -> Layout:
    """Draws a scene of the pieces that are named."""
    layout = Layout()
    things = [body for body in words if body.startswith(("thing", "letter"))]
    first = command.goals[0]
    beyond = 0.0
    if first.kind in ("through", "crawl"):
        beyond = _barriers(rng, layout, words)
    if things:
        places = _places(rng, len(things), beyond)
        if "obstacle" in words:
            place, yaw = _block(rng, places[0])
            # room to walk between the obstacle and what else stands there
            while any(np.linalg.norm(place - other) < PASSAGE for other in places[1:]):
                places = _places(rng, len(things), beyond)
                place, yaw = _block(rng, places[0])
            layout.put("obstacle", place, "obstacle", yaw=yaw)
        for body, place in zip(things, places, strict=True):
            layout.put(body, place, words[body], yaw=float(np.arctan2(place[1], place[0])))
    if first.kind == "unload":
        _trays(rng, layout, words)
    if first.kind == "stop":
        # all alike, so that they stay apart; across, so that they stay in view for a while
        speed = rng.uniform(0.08, 0.16) * rng.choice([-1.0, 1.0])
        layout.rolling = np.array([0.0, speed])
    return layout


def _places(rng: np.random.Generator, number: int, beyond: float) -> list[np.ndarray]:
    """Places (2,) of things, apart from each other, at least `beyond` metres ahead."""
    while True:
        places: list[np.ndarray] = []
        # a thing in the middle of the field can leave no room for the others: then all again
        for _ in range(40):
            angle = rng.uniform(-WIDEST, WIDEST)
            distance = rng.uniform(NEAREST, FARTHEST) + beyond
            place = distance * np.array([np.cos(angle), np.sin(angle)])
            near = [other for other in places if np.linalg.norm(place - other) < APART]
            if not near and place[0] > beyond + NEAREST * np.cos(WIDEST):
                places.append(place)
            if len(places) == number:
                return places


def _block(rng: np.random.Generator, target: np.ndarray) -> tuple[np.ndarray, float]:
    """Place (2,) and yaw of the obstacle: on the straight way to a target."""
    distance = float(np.linalg.norm(target))
    along = target / distance
    aside = np.array([-along[1], along[0]])
    # 1 m before the thing and 0.9 m before the robot there is room to turn
    ahead = rng.uniform(0.9, max(1.0, distance - 1.2))
    place = along * ahead + aside * rng.uniform(-0.1, 0.1)
    return place, float(np.arctan2(along[1], along[0]))


def _barriers(rng: np.random.Generator, layout: Layout, words: dict[str, str]) -> float:
    """Two gates or bars beside each other; returns how far ahead the farther one stands."""
    bodies = [body for body in words if body.startswith(("gate", "bar"))]
    sides = rng.permutation([-0.68, 0.68]) + rng.uniform(-0.08, 0.08, 2)
    # room to walk as the adverbs say before the robot has to duck
    ahead = rng.uniform(2.2, 3.0, 2)
    layout.bar_height = float(rng.uniform(BAR_LOWEST, BAR_HIGHEST))
    for body, x, y in zip(bodies, ahead, sides, strict=True):
        layout.put(body, np.array([x, y]), words[body])
    return float(ahead.max())


def _trays(rng: np.random.Generator, layout: Layout, words: dict[str, str]) -> None:
    sides = rng.permutation([-1.15, 1.15]) + rng.uniform(-0.1, 0.1, 2)
    ahead = rng.uniform(2.3, 3.2, 2)
    for body, x, y in zip(("tray0", "tray1"), ahead, sides, strict=True):
        yaw = float(np.arctan2(y, x))
        layout.put(body, np.array([x, y]), words[body], yaw=yaw)


__all__ = ["APART", "lay_out"]
