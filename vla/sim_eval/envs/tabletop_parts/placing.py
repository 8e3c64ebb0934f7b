"""Where receptacles and objects stand at the start: apart from each other and from the drawer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vla.sim_eval.envs.tabletop_parts import scene


def lay_out(rng: np.random.Generator, cabinet: float) -> np.ndarray:
    """Places (x, y) for the receptacles and then the objects, metres: far enough from
    each other and from the drawer.

    cabinet: x of the drawer, which must have room to come out.
    """
    # metres around each middle that nothing else comes into: rim or object, and room for
    # fingers, which open to 0.056
    radii = [0.060] * len(scene.RECEPTACLES) + [0.048] * scene.SLOTS
    while True:
        spots: list[np.ndarray] = []
        for radius in radii:
            spot = _free_spot(rng, radius, cabinet, spots, radii)
            if spot is None:
                # the first things left no room: begin again, for no order of placing always works
                break
            spots.append(spot)
        if len(spots) == len(radii):
            return np.stack(spots)


def _free_spot(
    rng: np.random.Generator,
    radius: float,
    cabinet: float,
    taken: Sequence[np.ndarray],
    radii: Sequence[float],
) -> np.ndarray | None:
    """A place (x, y) with room for `radius`; None if 40 draws found none. radii: of
    what is `taken`, and more."""
    for _ in range(40):
        spot: np.ndarray = rng.uniform(scene.OBJECTS_LOW, scene.OBJECTS_HIGH)
        # the lane of the drawer: its front is 0.056 to each side, and when open
        # its handle reaches y = 0.07
        x, y = spot
        before_drawer = abs(x - cabinet) < 0.062 + radius and y > 0.055 - radius
        neighbours = zip(taken, radii, strict=False)
        apart = all(np.linalg.norm(spot - other) > radius + r for other, r in neighbours)
        if apart and not before_drawer:
            return spot
    return None


__all__ = ["lay_out"]
