"""What the walking controller can be asked: eleven numbers, their box, and the four gaits.

The command is that of QUART (Ding et al. 2023, arXiv 2312.14457) and of Walk These Ways (Margolis
and Agrawal 2022, arXiv 2212.03238), without roll and gait duration, which QUART fixes as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from vla.common.errors import UserError
from vla.common.names import did_you_mean

NAMES = (
    "vx",
    "vy",
    "wz",
    "height",
    "frequency",
    "gait0",
    "gait1",
    "gait2",
    "swing",
    "pitch",
    "width",
)
"""Velocities forwards and to the left (m/s), turning to the left (rad/s), height of the trunk's
middle (m), steps per second of each foot (Hz), three phases of the gait (0 to 1), how high feet
swing (m), pitch (rad, nose down), distance between left and right feet (m)."""
LOW = np.array([-0.8, -0.4, -1.2, 0.14, 2.0, 0.0, 0.0, 0.0, 0.05, -0.35, 0.16])
HIGH = np.array([1.2, 0.4, 1.2, 0.34, 4.0, 1.0, 1.0, 1.0, 0.14, 0.35, 0.40])
"""The box: what is outside is clipped to it."""
STAND = np.array([0.0, 0.0, 0.0, 0.29, 3.0, 0.5, 0.0, 0.0, 0.08, 0.0, 0.26])
"""The command of a robot that stands in a trot's posture."""
PER_SECOND = np.array([1.0, 0.8, 2.5, 0.15, 2.0, np.inf, np.inf, np.inf, 0.2, 0.6, 0.15])
"""How fast the controller follows a changed command. The phases of the gait have no limit here:
each foot takes the new gait's step when it stands (`Gait`)."""
# Phases of (front left, front right, rear left, rear right) behind a common clock are
# (g0 + g1 + g2, g1, g2, g0): Walk These Ways, section 3.
GAITS: dict[str, tuple[float, float, float]] = {
    "pronk": (0.0, 0.0, 0.0),
    "trot": (0.5, 0.0, 0.0),
    "bound": (0.0, 0.5, 0.0),
    "pace": (0.0, 0.0, 0.5),
}
"""All feet together; diagonal pairs; front and rear pairs; left and right pairs."""
DUTY = 0.6
"""Share of its cycle in which a foot stands."""
HALF_LENGTH, HALF_DIAGONAL = 0.188, 0.23
"""From the trunk's middle to the hips, and to a foot: metres."""
LOWEST_HIP, HIGHEST_HIP, FOLDED = 0.14, 0.38, 0.12
"""Heights between which a leg can walk, and that of the hip of one that is folded."""
SLIMMEST = 0.85
"""Width of the stance as a share of the height: high on narrow feet the robot falls sideways."""


CHANGE_SPEED = 0.25
"""Speed of the feet over the ground below which the gait may change, m/s."""
FASTEST_SWING = 0.36
"""The greatest height of a swing times the frequency, m/s."""


@dataclass(frozen=True)
class Limits:
    """What one gait can do.

    Attributes:
        half_step: the farthest way of a foot in half a stance, metres.
        frequency: the lowest and the highest, Hz.
        pitch: the greatest either way, radians.
        width: the narrowest and the widest stance, metres.
        height: the lowest and the highest, metres.
        sideways, backwards, turning: how much more such a velocity counts than one forwards.
    """

    half_step: float
    frequency: tuple[float, float]
    pitch: float
    width: tuple[float, float]
    height: tuple[float, float]
    sideways: float
    backwards: float = 1.0
    turning: float = 1.0


LIMITS = {
    "pronk": Limits(
        0.06,
        (2.8, 3.2),
        0.15,
        (0.24, 0.34),
        (0.165, 0.31),
        sideways=5.0,
        backwards=4.0,
        turning=1.5,
    ),
    "trot": Limits(0.10, (2.0, 4.0), 0.35, (0.22, 0.40), (0.14, 0.34), sideways=1.3),
    "bound": Limits(
        0.08, (2.8, 4.0), 0.25, (0.24, 0.40), (0.165, 0.31), sideways=1.5, backwards=2.0
    ),
    "pace": Limits(
        0.08, (2.8, 4.0), 0.25, (0.24, 0.30), (0.165, 0.32), sideways=2.0, backwards=2.0
    ),
}
"""Outside them robots have fallen (docs/quadruped.md); `safe_command` keeps inside."""
GAIT_SLICE = slice(NAMES.index("gait0"), NAMES.index("gait2") + 1)


class CommandError(UserError):
    """A command names something unknown, leaves the box, or is no number."""


def command(gait: str = "trot", **values: float) -> np.ndarray:
    """A command (11,): that of standing, with the gait and the values that are given.

    Raises CommandError for an unknown gait or name, for NaN, and for a value outside the box.
    """
    if gait not in GAITS:
        hint = did_you_mean(gait, tuple(GAITS))
        raise CommandError(f"gait: {gait!r} is unknown{hint}; there are: {', '.join(GAITS)}")
    asked = STAND.copy()
    asked[GAIT_SLICE] = GAITS[gait]
    for name, value in values.items():
        if name not in NAMES:
            hint = did_you_mean(name, NAMES)
            raise CommandError(f"command: no {name!r}{hint}; there are: {', '.join(NAMES)}")
        asked[NAMES.index(name)] = value
    return checked_command(asked)


def checked_command(values: Any) -> np.ndarray:
    """The command as float64 (11,).

    Raises CommandError, which names the first value that is no number or outside the box.
    """
    asked = finite_command(values)
    for name, value, low, high in zip(NAMES, asked, LOW, HIGH, strict=True):
        if not low <= value <= high:
            raise CommandError(f"{name}: is {value:g}, outside the box; ask {low:g} to {high:g}")
    return asked


def finite_command(values: Any) -> np.ndarray:
    """The command as float64 (11,), inside the box or not.

    Raises CommandError for a wrong shape, and for NaN or infinity.
    """
    asked = np.asarray(values, dtype=float)
    if asked.shape != (len(NAMES),):
        raise CommandError(f"command: has shape {asked.shape}; give {len(NAMES)} numbers")
    # one look at all of them: this is called a hundred times a second
    if not np.isfinite(asked).all():
        wrong = int(np.flatnonzero(~np.isfinite(asked))[0])
        raise CommandError(f"{NAMES[wrong]}: is {asked[wrong]}; give a finite number")
    return asked


def safe_command(command: np.ndarray) -> np.ndarray:
    """The nearest command (11,) that the gait can do, of one inside the box.

    - frequency, height, pitch, width and phases are those that the nearest gait can have;
    - pitch and swing leave every leg room to stretch and to fold;
    - the way of a foot in half a stance is at most HALF_STEP, else all three velocities shrink.
    """
    gait = nearest_gait(command[GAIT_SLICE])
    limits = LIMITS[gait]
    vx, vy, wz, height, frequency, _, _, _, swing, pitch, width = command.tolist()
    frequency = _clipped(frequency, *limits.frequency)
    height = _clipped(height, *limits.height)
    narrowest, widest = limits.width
    width = _clipped(width, max(narrowest, SLIMMEST * height), widest)
    # a pitch lowers two hips by sin(pitch) * HALF_LENGTH, and raises the others
    room = min(height - LOWEST_HIP, HIGHEST_HIP - height) / HALF_LENGTH
    steepest = min(limits.pitch, math.asin(_clipped(room, 0.0, 1.0)))
    pitch = _clipped(pitch, -steepest, steepest)
    lowest_hip = height - HALF_LENGTH * math.sin(abs(pitch))
    # and a foot that goes up and down too fast kicks the ground
    highest = min(lowest_hip - FOLDED, FASTEST_SWING / frequency)
    swing = min(swing, max(float(LOW[8]), highest))
    along = vx if vx > 0 else limits.backwards * vx
    fastest = math.hypot(along, limits.sideways * vy) + limits.turning * HALF_DIAGONAL * abs(wz)
    half_step = 0.5 * DUTY / frequency * fastest
    # the knee of a leg that reaches forwards goes down, below a low hip to the ground
    farthest = min(limits.half_step, 0.8 * (lowest_hip - 0.10))
    slower = min(1.0, farthest / max(half_step, 1e-9))
    velocities = (slower * vx, slower * vy, slower * wz)
    return np.array([*velocities, height, frequency, *GAITS[gait], swing, pitch, width])


def not_followed(command: np.ndarray) -> dict[str, tuple[float, float]]:
    """Of a command (11,): name -> (what is asked, what is followed in its place), for all that its
    gait cannot do. The phases of a gait are taken as those of the nearest, without a word."""
    inside = np.minimum(np.maximum(command, LOW), HIGH)
    found = {}
    for name, asked, followed in zip(NAMES, command, safe_command(inside), strict=True):
        # float32 actions are no command of their own
        if abs(asked - followed) > 1e-6 and not name.startswith("gait"):
            found[name] = (float(asked), float(followed))
    return found


def _clipped(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


def allows_change(command: np.ndarray) -> bool:
    """Whether a command (11,) is slow enough for another gait."""
    vx, vy, wz = command[:3].tolist()
    return math.hypot(vx, vy) + HALF_DIAGONAL * abs(wz) < CHANGE_SPEED + 0.02


def keeps_speed(command: np.ndarray) -> bool:
    """Whether the velocities of a command (11,) are not too fast for its gait and posture."""
    return bool(np.abs(safe_command(command)[:3] - command[:3]).max() <= 0.02)


def nearest_gait(phases: np.ndarray) -> str:
    """The name of the gait whose phases (3,) are nearest; phases are angles: 1 is 0 again."""
    present = [float(phase) for phase in phases]
    distances = {}
    for name, of_gait in GAITS.items():
        away = [(a - b + 0.5) % 1.0 - 0.5 for a, b in zip(present, of_gait, strict=True)]
        distances[name] = math.hypot(*away)
    return min(distances, key=distances.__getitem__)


__all__ = [
    "GAITS",
    "GAIT_SLICE",
    "HIGH",
    "LOW",
    "NAMES",
    "PER_SECOND",
    "STAND",
    "CommandError",
    "allows_change",
    "checked_command",
    "command",
    "finite_command",
    "keeps_speed",
    "nearest_gait",
    "not_followed",
    "safe_command",
]
