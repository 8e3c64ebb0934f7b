"""What a robot sees and does."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from vla.common.foreign.json_files import JsonError, read_json
from vla.common.foreign.texts import is_text
from vla.types.binary_ends import binary_middle
from vla.types.dimension_names import made_up_names
from vla.types.errors import SpecError

if TYPE_CHECKING:
    # here: exported policies act without it
    from jaxtyping import Bool, Float

    from vla.types.batch import Batch
    from vla.types.observation import Observation

MAX_IMAGE_SIDE = 16384
"""Pixels. No camera of a robot has more, and pictures are made of this size before any is seen."""

CONTROL_RATES = (1e-4, 1e6)
"""Actions per second: from one in three hours to more than any motor follows."""


@dataclass(frozen=True)
class Spec:
    """What a robot sees and does. Saved with every policy and every dataset.

    Attributes:
        cameras: camera name -> (height, width) in pixels.
        state_names: one name per dimension of the proprioceptive state (S of them; may be empty).
        action_names: one name per action dimension (A of them, at least one).
        action_low: least value of each action dimension, in robot units.
        action_high: greatest value of each action dimension, in robot units.
        control_hz: control rate, actions per second.
        binary_actions: action dimensions that are `action_low` or `action_high` and nothing
            between, by name, such as a gripper that only opens or closes, or a flag that says that
            the task is done. Stored in the order of `action_names`.

    Raises SpecError if a value is missing, or no robot could have it.
    """

    cameras: dict[str, tuple[int, int]]
    state_names: tuple[str, ...]
    action_names: tuple[str, ...]
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    control_hz: float
    binary_actions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # Plain types whatever was given: specs are compared with ==, and numpy's numbers or a list
        # out of JSON would make equal ones differ. The class is frozen, hence `object.__setattr__`.
        cameras = {str(name): (int(h), int(w)) for name, (h, w) in self.cameras.items()}
        object.__setattr__(self, "cameras", cameras)
        for name in ("state_names", "action_names"):
            object.__setattr__(self, name, tuple(str(text) for text in getattr(self, name)))
        for name in ("action_low", "action_high"):
            object.__setattr__(self, name, tuple(float(limit) for limit in getattr(self, name)))
        object.__setattr__(self, "control_hz", float(self.control_hz))
        self._check_actions()
        self._order_binary_actions()
        for camera, (h, w) in cameras.items():
            if h < 1 or w < 1:
                raise SpecError(f"camera {camera!r}: size must be positive, got {h}x{w}")
            if max(h, w) > MAX_IMAGE_SIDE:
                raise SpecError(
                    f"camera {camera!r}: {h}x{w} is larger than any camera: expected at most "
                    f"{MAX_IMAGE_SIDE} pixels a side"
                )
        slowest, fastest = CONTROL_RATES
        if not slowest <= self.control_hz <= fastest:
            raise SpecError(
                f"control_hz must be positive, from {slowest:g} to {fastest:g} actions per second, "
                f"got {self.control_hz:g}"
            )
        for text in (*cameras, *self.state_names, *self.action_names):
            if not is_text(text):
                raise SpecError(f"the name {text!r} holds half a character; rename it")

    def _check_actions(self) -> None:
        count = len(self.action_names)
        if count == 0:
            raise SpecError("action_names is empty: a robot needs at least one action dimension")
        for name, limits in (("action_low", self.action_low), ("action_high", self.action_high)):
            if len(limits) != count:
                raise SpecError(f"{name} has {len(limits)} values for {count} action_names")
        limits_of = zip(self.action_names, self.action_low, self.action_high, strict=True)
        for dim, low, high in limits_of:
            # tokenizers divide by the range, and heads are scaled to it
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise SpecError(
                    f"action {dim!r}: needs finite low < high, got low={low} high={high}"
                )

    def _order_binary_actions(self) -> None:
        binary = [str(name) for name in self.binary_actions]
        unknown = [name for name in binary if name not in self.action_names]
        if unknown:
            raise SpecError(
                f"binary_actions: no action dimension {unknown[0]!r}; there are: "
                f"{', '.join(self.action_names)}"
            )
        # in one order, so that specs which mean the same compare equal
        ordered = tuple(name for name in self.action_names if name in binary)
        object.__setattr__(self, "binary_actions", ordered)

    @property
    def state_dim(self) -> int:
        """Number of state dimensions, S."""
        return len(self.state_names)

    @property
    def action_dim(self) -> int:
        """Number of action dimensions, A."""
        return len(self.action_names)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, the inverse of `from_dict`."""
        cameras = {camera: list(size) for camera, size in self.cameras.items()}
        values = {**dataclasses.asdict(self), "cameras": cameras}
        if not self.binary_actions:
            # digests are made of this: those of datasets from before there was the key stay
            del values["binary_actions"]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Raises SpecError if a key is missing, unknown or of the wrong kind."""
        if not isinstance(values, Mapping):
            raise SpecError(f"expected a mapping, got {type(values).__name__}")
        known = {field.name for field in dataclasses.fields(cls)}
        missing = known - set(values) - {"binary_actions"}
        if missing:
            raise SpecError(f"spec lacks {', '.join(sorted(missing))}")
        unknown = set(values) - known
        if unknown:
            raise SpecError(f"spec has unknown keys {', '.join(sorted(unknown))}")
        try:
            _check_kinds(values)
            return cls(**values)
        except SpecError:
            raise  # it is a ValueError too, and says more than the line below
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            raise SpecError(f"spec values of the wrong kind: {error}") from error

    def save(self, path: str | Path) -> None:
        """Writes the spec as JSON, which `load` reads. Raises OSError if it cannot."""
        Path(path).write_text(json.dumps(self.to_dict(), indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Raises FileNotFoundError, or SpecError naming the file."""
        try:
            return cls.from_dict(read_json(path))
        except JsonError as error:
            raise SpecError(str(error)) from error
        except SpecError as error:
            raise SpecError(f"{path}: {error}") from error

    def chosen_cameras(self, names: Sequence[str] | None) -> tuple[str, ...]:
        """The cameras that a policy looks through: those named, or all.

        Raises SpecError if there is none, or one is unknown.
        """
        chosen = tuple(self.cameras if names is None else names)
        has = ", ".join(self.cameras) or "none"
        if not chosen:
            raise SpecError(f"a policy that sees needs at least one camera; the spec has: {has}")
        unknown = [name for name in chosen if name not in self.cameras]
        if unknown:
            raise SpecError(f"cameras: no {unknown[0]!r} in the spec; it has: {has}")
        return chosen

    def differences(self, other: Spec) -> list[str]:
        """One line for each way in which `other` does not fit a policy or dataset of this spec."""
        lines = []
        for camera, (height, width) in self.cameras.items():
            if camera not in other.cameras:
                has = ", ".join(other.cameras) or "none"
                lines.append(f"camera {camera!r} is missing (there are: {has})")
            elif other.cameras[camera] != (height, width):
                h, w = other.cameras[camera]
                lines.append(f"camera {camera!r} is {h}x{w}, expected {height}x{width}")
        names = ["state_names", "action_names"]
        # as with limits: of other actions it is no second difference
        if self.action_names == other.action_names:
            names.append("binary_actions")
        for name in names:
            mine = getattr(self, name)
            found = getattr(other, name)
            if mine != found:
                lines.append(f"{name} are {list(found)}, expected {list(mine)}")
        # limits of other actions are no second difference
        if self.action_names == other.action_names:
            for name in ("action_low", "action_high"):
                mine = getattr(self, name)
                found = getattr(other, name)
                # close, not equal: limits went through float32 on their way into some datasets
                if not np.allclose(mine, found):
                    lines.append(f"{name} is {found}, expected {mine}")
        return lines

    @property
    def is_binary(self) -> Bool[np.ndarray, " A"]:
        """Which action dimensions are binary."""
        return np.array([name in self.binary_actions for name in self.action_names], bool)

    @property
    def binary_ends(self) -> dict[str, tuple[float, float]]:
        """The two values of each binary dimension, rounded to float32 as actions are."""
        ends = {}
        for dim in np.flatnonzero(self.is_binary):
            low, high = np.float32(self.action_low[dim]), np.float32(self.action_high[dim])
            ends[self.action_names[dim]] = (float(low), float(high))
        return ends

    def to_ends(self, actions: Float[np.ndarray, "... A"]) -> Float[np.ndarray, "... A"]:
        """The actions with binary dimensions moved to the end of their range that is nearer; from
        the middle to the upper one. Without binary dimensions, `actions` itself."""
        if not self.binary_actions:
            return actions
        moved = np.array(actions)
        for name, (low, high) in self.binary_ends.items():
            dim = self.action_names.index(name)
            upper = moved[..., dim] >= binary_middle(low, high)
            moved[..., dim] = np.where(upper, high, low)
        return moved

    def doubt(self, other: Spec) -> str | None:
        """Why equal names do not show that `other` is the same robot; None if they do, or differ.

        Names that a reader made up number the dimensions of any robot alike.
        """
        for what in ("action_names", "state_names"):
            names = getattr(self, what)
            made_up = made_up_names(names)
            if made_up and names == getattr(other, what):
                return (
                    f"both have {what} like {made_up[0]!r}, which was made up to number a "
                    "dimension and does not show that they are of one robot"
                )
        return None

    def fake_batch(self, B: int = 2, T: int = 1, K: int = 1, *, seed: int = 0) -> Batch:
        """A valid batch of noise: every contract test is built on it."""
        # here, not above: an exported policy has a spec, and runs where there is no torch
        import torch

        from vla.types.batch import Batch

        rng = torch.Generator().manual_seed(seed)
        # a generator of its own: golden losses of tests hang on what the other fields draw
        keyframe_rng = torch.Generator().manual_seed(seed + 1)
        low = torch.tensor(self.action_low)
        high = torch.tensor(self.action_high)
        unit = torch.rand(B, T, K, self.action_dim, generator=rng)
        actions = (low + unit * (high - low)).numpy()
        images = {}
        for camera, (h, w) in self.cameras.items():
            shape = (B, T, h, w, 3)
            images[camera] = torch.randint(0, 256, shape, generator=rng, dtype=torch.uint8)
        return Batch(
            images=images,
            state=torch.randn(B, T, self.state_dim, generator=rng),
            keyframe=torch.randn(B, T, self.state_dim, generator=keyframe_rng),
            instruction=[f"do task {b % 3}" for b in range(B)],
            actions=torch.from_numpy(self.to_ends(actions)),
            action_mask=torch.ones(B, T, K, dtype=torch.bool),
            rewards=torch.rand(B, T, generator=rng),
            terminals=torch.zeros(B, T, dtype=torch.bool),
            returns_to_go=torch.rand(B, T, generator=rng),
            success=(torch.arange(B) % 2 == 0)[:, None].expand(B, T).clone(),
            timesteps=torch.arange(T).expand(B, T).clone(),
            mask=torch.ones(B, T, dtype=torch.bool),
            task_index=torch.arange(B) % 3,
        )

    def fake_observation(self, B: int = 2, *, seed: int = 0) -> Observation:
        """The last step of `fake_batch` as an observation, with a reward and a target return."""
        import torch

        seen = self.fake_batch(B, 1, seed=seed).observation(-1)
        return dataclasses.replace(seen, reward=torch.zeros(B), target_return=torch.ones(B))


def _check_kinds(values: Mapping[str, Any]) -> None:
    """Raises TypeError if a value would be turned into another kind: a text into numbers or
    letters, a fraction of a pixel into none."""
    for key in ("state_names", "action_names", "binary_actions"):
        names = values.get(key, ())
        if isinstance(names, str) or not all(isinstance(name, str) for name in names):
            raise TypeError(f"{key}: expected a list of texts")
    for key in ("action_low", "action_high"):
        if not all(_is_number(limit, Real) for limit in values[key]):
            raise TypeError(f"{key}: expected a list of numbers")
    if not _is_number(values["control_hz"], Real):
        raise TypeError("control_hz: expected a number")
    for camera, size in values["cameras"].items():
        if not all(_is_number(side, Integral) for side in size):
            raise TypeError(f"camera {camera!r}: expected a height and a width")


def _is_number(value: Any, kind: type) -> bool:
    # truth values are integers to Python
    return isinstance(value, kind) and not isinstance(value, bool)
