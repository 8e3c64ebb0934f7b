"""How the quadruped walks: the adverbs of speed and gait, and how both are measured.

Neither is trusted: the speed is the way that was walked per second, and the gait is read from the
contacts of the feet with the floor.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from vla.common.errors import UserError

Speed = Literal["slowly", "normally", "quickly"]
GaitWord = Literal["trotting", "pacing", "bounding", "pronking"]
SPEEDS: tuple[Speed, ...] = get_args(Speed)
GAIT_WORDS: dict[GaitWord, str] = {
    "trotting": "trot",
    "pacing": "pace",
    "bounding": "bound",
    "pronking": "pronk",
}
"""Adverb -> gait of `commands.GAITS`."""
BANDS: dict[Speed, tuple[float, float]] = {
    "slowly": (0.15, 0.48),
    "normally": (0.48, 0.78),
    "quickly": (0.78, 2.0),
}
"""Speeds in m/s, from and up to."""
FASTEST: dict[GaitWord, float] = {
    "trotting": 1.1,
    "pacing": 0.95,
    "bounding": 0.95,
    "pronking": 0.6,
}
"""What each gait reaches while it turns and goes straight, m/s."""
MINIMUM_TICKS = 100
"""Contacts of fewer ticks (1 s) say nothing about a gait."""


class MannerError(UserError):
    """Adverbs that contradict each other, or that no gait can follow."""


@dataclass(frozen=True)
class Manner:
    """How a command is to be carried out.

    Raises MannerError if the gait does not reach the speed.
    """

    speed: Speed
    gait: GaitWord

    def __post_init__(self) -> None:
        least = BANDS[self.speed][0]
        if FASTEST[self.gait] <= least:
            raise MannerError(
                f"adverbs: {self.gait} reaches {FASTEST[self.gait]:g} m/s, {self.speed!r} asks for "
                f"{least:g} and more; say another speed, or another gait"
            )

    def __str__(self) -> str:
        return f"{self.speed} with a {self.gait} gait"


def adverbs(manner: Manner, *, held_out: bool = False) -> str:
    """The words that are put behind an instruction."""
    return f"{manner.gait} {manner.speed}" if held_out else str(manner)


def read_manner(text: str) -> tuple[str, Speed | None, GaitWord | None]:
    """An instruction without its adverbs, and the speed and gait that they ask for.

    Raises MannerError if two of one kind are there.
    """
    speed = _one_of(text, SPEEDS)
    gait = _one_of(text, tuple(GAIT_WORDS))
    words = "|".join((*SPEEDS, *GAIT_WORDS))
    rest = re.sub(rf"\s*\b(with an? )?({words})\b( gait)?", "", text, flags=re.IGNORECASE)
    return rest, speed, gait  # type: ignore[return-value]


def _one_of(text: str, words: tuple[str, ...]) -> str | None:
    """The word of these that the text says."""
    said = [word for word in words if re.search(rf"\b{word}\b", text, re.IGNORECASE)]
    if len(said) > 1:
        raise MannerError(f"adverbs: {said[0]!r} and {said[1]!r} contradict each other; say one")
    return said[0] if said else None


def speed_of(metres_per_second: float) -> Speed | None:
    """The adverb whose band a speed is in; None if it is in no band."""
    for word, (low, high) in BANDS.items():
        if low <= metres_per_second < high:
            return word
    return None


def gait_of(contacts: np.ndarray) -> GaitWord | None:
    """The gait that feet have walked in, by their contacts with the floor.

    Feet that stand and swing together correlate: diagonal pairs in a trot, front and rear pairs in
    a bound, left and right pairs in a pace, all in a pronk.

    Args:
        contacts: bool (T, 4): front left, front right, rear left, rear right, 100 a second.

    Returns None if there are fewer than MINIMUM_TICKS, or if a foot has never left the ground.
    """
    touching = np.asarray(contacts, dtype=float)
    if len(touching) < MINIMUM_TICKS or touching.std(axis=0).min() < 0.05:
        return None
    alike = np.corrcoef(touching.T)
    pairs: dict[GaitWord, float] = {
        "trotting": float(alike[0, 3] + alike[1, 2]) / 2,
        "pacing": float(alike[0, 2] + alike[1, 3]) / 2,
        "bounding": float(alike[0, 1] + alike[2, 3]) / 2,
    }
    # between the feet of a pronk every pair is alike; in the other gaits two of three are opposed
    if min(pairs.values()) > 0.2:
        return "pronking"
    return max(pairs, key=pairs.__getitem__)


class Gauge:
    """Measures speed and gait of one episode, without what is slow by nature.

    Under a bar and at the goal the robot goes as it must; `step` and `tick` are called for the
    rest of the way.
    """

    def __init__(self) -> None:
        self._speeds: list[float] = []
        self._contacts: list[np.ndarray] = []

    def tick(self, feet_down: np.ndarray) -> None:
        """Notes which feet touch the floor, bool (4,)."""
        self._contacts.append(feet_down)

    def step(self, speed: float) -> None:
        """Notes the speed over one control step, m/s."""
        self._speeds.append(speed)

    @property
    def speed(self) -> float:
        """The upper quartile of the speeds, m/s; 0 if none was noted."""
        # of the steps: on a short way half of them are spent speeding up, turning and braking
        return float(np.quantile(self._speeds, 0.75)) if self._speeds else 0.0

    @property
    def gait(self) -> GaitWord | None:
        """See `gait_of`."""
        return gait_of(np.array(self._contacts)) if self._contacts else None

    def shows(self, manner: Manner) -> bool:
        """Whether the robot has walked as it was asked to."""
        return speed_of(self.speed) == manner.speed and self.gait == manner.gait


__all__ = [
    "BANDS",
    "GAIT_WORDS",
    "SPEEDS",
    "GaitWord",
    "Gauge",
    "Manner",
    "MannerError",
    "Speed",
    "adverbs",
    "gait_of",
    "read_manner",
    "speed_of",
]
