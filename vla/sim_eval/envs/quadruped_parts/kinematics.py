"""Closed-form kinematics of four legs with an abduction, a hip and a knee joint.

Legs are in the order front left, front right, rear left, rear right. Positions are those of the
feet's middles, relative to each leg's abduction joint, in the trunk's axes: x forwards, y to the
left, z up; metres. Angles (4, 3) are (abduction, hip, knee), radians; at zero the leg hangs
straight down, and the knee bends backwards with negative angles.
"""

from __future__ import annotations

import math

import numpy as np

THIGH, CALF = 0.213, 0.213
"""From hip to knee and from knee to the foot's middle."""
OFFSET = 0.08
"""From the abduction axis outwards to the plane in which thigh and calf move."""
SIDE = np.array([1.0, -1.0, 1.0, -1.0])
"""1 for legs of the left side, -1 for those of the right."""
# A straight knee is a singularity: the last 4 mm of the leg would cost any angle. Folded further
# than 10 cm, calf and thigh would be inside each other.
SHORTEST, LONGEST = 0.10, THIGH + CALF - 0.004


def leg_angles(feet: np.ndarray) -> np.ndarray:
    """Inverse kinematics: feet (4, 3) -> angles (4, 3).

    What is out of reach is drawn towards the hip until it can be reached.
    """
    places = zip(feet.tolist(), SIDE.tolist(), strict=True)
    return np.array([_angles(x, y, z, side) for (x, y, z), side in places])


def _angles(x: float, y: float, z: float, side: float) -> tuple[float, float, float]:
    """Abduction, hip and knee of one leg. Plain floats: NumPy takes longer for four numbers."""
    # the distance from the abduction axis, at least so that the root below exists
    radius = max(math.hypot(y, z), OFFSET + 0.02)
    down = math.sqrt(radius**2 - OFFSET**2)
    abduction = math.atan2(y, -z) - math.atan2(side * OFFSET, down)
    length = math.hypot(x, down)
    reached = min(max(length, SHORTEST), LONGEST)
    x, down = x * reached / length, down * reached / length
    # the law of cosines, at the knee and at the hip
    bend = (reached**2 - THIGH**2 - CALF**2) / (2 * THIGH * CALF)
    knee = -math.acos(min(max(bend, -1.0), 1.0))
    lean = (THIGH**2 + reached**2 - CALF**2) / (2 * THIGH * reached)
    hip = math.atan2(-x, down) + math.acos(min(max(lean, -1.0), 1.0))
    return abduction, hip, knee


def foot_positions(angles: np.ndarray) -> np.ndarray:
    """Forward kinematics: angles (4, 3) -> feet (4, 3)."""
    abduction, hip, knee = angles.T
    x = -THIGH * np.sin(hip) - CALF * np.sin(hip + knee)
    down = THIGH * np.cos(hip) + CALF * np.cos(hip + knee)
    y = SIDE * OFFSET * np.cos(abduction) + down * np.sin(abduction)
    z = SIDE * OFFSET * np.sin(abduction) - down * np.cos(abduction)
    return np.stack([x, y, z], axis=1)


__all__ = ["SIDE", "foot_positions", "leg_angles"]
