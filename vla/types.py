"""What passes between the rooms: specs, observations, batches, outputs.

Shape letters used everywhere: B batch, T time steps of context, K actions per chunk,
A action dimensions, S state dimensions, F features, H and W image height and width.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from vla.config import UserError


class SpecError(UserError):
    """A spec contradicts itself, or something does not fit the spec it is used with."""


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
    """

    cameras: dict[str, tuple[int, int]]
    state_names: tuple[str, ...]
    action_names: tuple[str, ...]
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    control_hz: float

    def __post_init__(self) -> None:
        cameras = {str(name): (int(h), int(w)) for name, (h, w) in self.cameras.items()}
        object.__setattr__(self, "cameras", cameras)
        for name in ("state_names", "action_names"):
            object.__setattr__(self, name, tuple(str(v) for v in getattr(self, name)))
        for name in ("action_low", "action_high"):
            object.__setattr__(self, name, tuple(float(v) for v in getattr(self, name)))
        object.__setattr__(self, "control_hz", float(self.control_hz))
        if not self.action_names:
            raise SpecError("action_names is empty: a robot needs at least one action dimension")
        for name in ("action_low", "action_high"):
            if len(getattr(self, name)) != len(self.action_names):
                raise SpecError(
                    f"{name} has {len(getattr(self, name))} values for {len(self.action_names)} action_names"
                )
        for dim, low, high in zip(self.action_names, self.action_low, self.action_high, strict=True):
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise SpecError(f"action {dim!r}: needs finite low < high, got low={low} high={high}")
        for camera, (h, w) in cameras.items():
            if h < 1 or w < 1:
                raise SpecError(f"camera {camera!r}: size must be positive, got {h}x{w}")
        if not (math.isfinite(self.control_hz) and self.control_hz > 0):
            raise SpecError(f"control_hz must be positive, got {self.control_hz}")

    @property
    def state_dim(self) -> int:
        return len(self.state_names)

    @property
    def action_dim(self) -> int:
        return len(self.action_names)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, the inverse of `from_dict`."""
        return {**dataclasses.asdict(self), "cameras": {k: list(v) for k, v in self.cameras.items()}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Raises SpecError where a key is missing, unknown or of the wrong kind."""
        known = {f.name for f in dataclasses.fields(cls)}
        if missing := known - set(values):
            raise SpecError(f"spec lacks {', '.join(sorted(missing))}")
        if unknown := set(values) - known:
            raise SpecError(f"spec has unknown keys {', '.join(sorted(unknown))}")
        try:
            return cls(**values)
        except SpecError:
            raise
        except (TypeError, ValueError, AttributeError) as error:
            raise SpecError(f"spec values of the wrong kind: {error}") from error

    def save(self, path: str | Path) -> None:
        """Writes the spec as JSON, which `load` reads. Raises OSError where the file cannot be written."""
        Path(path).write_text(json.dumps(self.to_dict(), indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Raises FileNotFoundError, or SpecError naming the file."""
        try:
            return cls.from_dict(json.loads(Path(path).read_text()))
        except (json.JSONDecodeError, SpecError) as error:
            raise SpecError(f"{path}: {error}") from error

    def chosen_cameras(self, names: Sequence[str] | None) -> tuple[str, ...]:
        """The cameras that a policy looks through: those named, or all. Raises SpecError where there is none, or one is
        unknown."""
        chosen = tuple(self.cameras if names is None else names)
        has = ", ".join(self.cameras) or "none"
        if not chosen:
            raise SpecError(f"a policy that sees needs at least one camera; the spec has: {has}")
        if unknown := [name for name in chosen if name not in self.cameras]:
            raise SpecError(f"cameras: no {unknown[0]!r} in the spec; it has: {has}")
        return chosen

    def differences(self, other: Spec) -> list[str]:
        """One line for each way in which `other` does not fit a policy or dataset of this spec."""
        lines = []
        for camera, size in self.cameras.items():
            if camera not in other.cameras:
                lines.append(f"camera {camera!r} is missing (there are: {', '.join(other.cameras) or 'none'})")
            elif other.cameras[camera] != size:
                h, w = other.cameras[camera]
                lines.append(f"camera {camera!r} is {h}x{w}, expected {size[0]}x{size[1]}")
        for name in ("state_names", "action_names"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                lines.append(f"{name} are {list(theirs)}, expected {list(mine)}")
        if self.action_names == other.action_names:
            for name in ("action_low", "action_high"):
                if not np.allclose(getattr(self, name), getattr(other, name)):
                    lines.append(f"{name} is {getattr(other, name)}, expected {getattr(self, name)}")
        return lines

    def fake_batch(self, B: int = 2, T: int = 1, K: int = 1, *, seed: int = 0) -> Batch:
        """A valid batch of noise: every contract test is built on it."""
        rng = torch.Generator().manual_seed(seed)
        low, high = torch.tensor(self.action_low), torch.tensor(self.action_high)
        unit = torch.rand(B, T, K, self.action_dim, generator=rng)
        return Batch(
            images={
                camera: torch.randint(0, 256, (B, T, h, w, 3), generator=rng, dtype=torch.uint8)
                for camera, (h, w) in self.cameras.items()
            },
            state=torch.randn(B, T, self.state_dim, generator=rng),
            keyframe=torch.randn(B, T, self.state_dim, generator=torch.Generator().manual_seed(seed + 1)),
            instruction=[f"do task {b % 3}" for b in range(B)],
            actions=low + unit * (high - low),
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
        batch = self.fake_batch(B, 1, seed=seed)
        return dataclasses.replace(batch.observation(-1), reward=torch.zeros(B), target_return=torch.ones(B))


@dataclass(frozen=True)
class Observation:
    """What B robots see at one control step.

    Attributes:
        images: camera name -> uint8 (B, H, W, 3), RGB.
        state: float32 (B, S), in robot units.
        instruction: B strings.
        reward: float32 (B,), the sum of the rewards since the last observation; None where nobody counts them.
        target_return: float32 (B,), what a return-conditioned policy is asked for from the start of the episode on;
            None leaves it to the policy.
    """

    images: dict[str, Tensor]
    state: Tensor
    instruction: list[str]
    reward: Tensor | None = None
    target_return: Tensor | None = None

    @property
    def batch_size(self) -> int:
        return len(self.instruction)

    @classmethod
    def from_numpy(
        cls,
        images: Mapping[str, np.ndarray | Sequence[np.ndarray]],
        state: np.ndarray | Sequence[np.ndarray],
        instruction: Sequence[str] | str,
        *,
        reward: Sequence[float] | float | None = None,
        target_return: Sequence[float] | float | None = None,
    ) -> Self:
        """The observation of B robots, or of one: then `instruction` is a text and nothing has the axis B.

        Args:
            images: camera -> uint8 (B, H, W, 3) RGB, 0 to 255; of one robot (H, W, 3).
            state: numbers (B, S) in robot units, kept as float32; of one robot (S,).
            instruction: B texts; of one robot a text.
            reward, target_return: see the class; B numbers, or one.

        Raises SpecError where the instruction is no text, or an input is no array of numbers. Whether sizes and types are a
        policy's is told by `check`, which `act` calls.
        """
        alone = isinstance(instruction, str)
        if not alone and not (
            isinstance(instruction, Sequence | np.ndarray) and all(isinstance(text, str) for text in instruction)
        ):
            raise SpecError(
                f"instruction is {instruction!r}: expected a text for one robot, or a list of B texts; "
                'a policy that reads none takes "" too'
            )
        if not isinstance(images, Mapping):
            raise SpecError(f'images is {type(images).__name__}: expected a dict {{"camera": array}}, {{}} for none')
        pictures = {camera: _numbers(f"camera {camera!r}", image) for camera, image in images.items()}
        state = _numbers("state", state).astype(np.float32)
        if alone:
            pictures, state = {camera: image[None] for camera, image in pictures.items()}, state[None]
        return cls(
            images={camera: torch.from_numpy(np.ascontiguousarray(image)) for camera, image in pictures.items()},
            state=torch.from_numpy(np.ascontiguousarray(state)),
            instruction=[instruction] if isinstance(instruction, str) else list(instruction),
            reward=None if reward is None else torch.tensor(reward, dtype=torch.float32).view(-1),
            target_return=None if target_return is None else torch.tensor(target_return, dtype=torch.float32).view(-1),
        )

    def check(self, spec: Spec) -> None:
        """Raises SpecError naming the camera or field that does not fit `spec`, or the state's dimension that is not finite;
        extra cameras are allowed."""
        B = self.batch_size
        for camera, (h, w) in spec.cameras.items():
            if camera not in self.images:
                raise SpecError(
                    f"observation lacks camera {camera!r} (it has: {', '.join(self.images) or 'none'}); "
                    "name the cameras of the env as in the policy's spec"
                )
            image = self.images[camera]
            if image.dtype != torch.uint8 or tuple(image.shape) != (B, h, w, 3):
                raise SpecError(
                    f"camera {camera!r}: expected uint8 {(B, h, w, 3)}, got {str(image.dtype).removeprefix('torch.')} "
                    f"{tuple(image.shape)}; {_image_remedy(image, B, h, w)}"
                )
        if tuple(self.state.shape) != (B, spec.state_dim):
            raise SpecError(f"state: expected {(B, spec.state_dim)}, got {tuple(self.state.shape)}")
        if not bool((finite_BS := torch.isfinite(self.state)).all()):
            bad = ", ".join(spec.state_names[i] for i in (~finite_BS).any(0).nonzero().flatten().tolist())
            raise SpecError(f"state holds NaN or infinity in {bad}: the simulation has diverged or a sensor is broken")
        for name in ("reward", "target_return"):
            values = getattr(self, name)
            if values is not None and (tuple(values.shape) != (B,) or not bool(torch.isfinite(values).all())):
                raise SpecError(f"{name}: expected {B} finite numbers, got {values.tolist()}")

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        return _to(self, device, non_blocking)


def _numbers(name: str, values: Any) -> np.ndarray:
    """`values` as an array. Raises SpecError where they are none of numbers."""
    try:
        array = np.asarray(values)
    except ValueError as error:  # of rows of different length
        raise SpecError(f"{name}: is no array: {error}; give all robots the same sizes") from error
    if array.dtype.kind not in "buif":
        raise SpecError(f"{name}: is {type(values).__name__} of {array.dtype}: expected an array of numbers")
    return array


def _image_remedy(image: Tensor, B: int, h: int, w: int) -> str:
    """How to mend an image that is no uint8 (B, h, w, 3)."""
    shape, remedies = tuple(image.shape), []
    if image.dtype != torch.uint8:
        remedies.append("give pixels as uint8, 0 to 255")
    if len(shape) == 3:
        remedies.append("the batch axis is missing: add it (image[None]), or give one robot's instruction as a text")
        shape = (B, *shape)
    if len(shape) == 4 and shape[3] != 3 and shape[1] == 3:
        remedies.append("put channels last, (B, H, W, 3)")
        shape = (shape[0], *shape[2:], 3)
    if len(shape) != 4 or shape[3] != 3:
        remedies.append("give RGB images, (B, H, W, 3)")
    elif shape[0] != B:
        remedies.append(f"give an image for each of the {B} instructions")
    elif shape[1:3] != (h, w):
        remedies.append("render at the policy's size")
    return "; ".join(remedies)


@dataclass(frozen=True)
class Batch:
    """B windows of T consecutive steps of trajectories.

    Images stay uint8 until they are on the device. Steps where `mask` is False are padding (at the
    start of an episode, on the left). `terminals` marks true ends of the task, never time limits.

    Attributes:
        images: camera name -> uint8 (B, T, H, W, 3), RGB.
        state: float32 (B, T, S), robot units.
        keyframe: float32 (B, T, S), the state at the next keyframe (see `vla.data.loading.keyframes`), robot units.
        instruction: B strings.
        actions: float32 (B, T, K, A), robot units: at step t the actions of steps t .. t+K-1.
        action_mask: bool (B, T, K), False where the chunk runs past the end of the episode.
        rewards: float32 (B, T), the reward that follows the action of step t.
        terminals: bool (B, T).
        returns_to_go: float32 (B, T), (discounted) sum of rewards from step t on.
        success: bool (B, T), whether the episode is solved at step t or later.
        timesteps: int64 (B, T), index of the step in its episode.
        mask: bool (B, T).
        task_index: int64 (B,).
        robot: int64 (B,), the number of the robot that each window is of; None where all are of one. Windows of several
            robots have state and actions of the largest, zeros beyond a robot's own dimensions, and images under
            "NUMBER/CAMERA", which hold the rows of that robot alone, in their order (see `vla.data.loading.multi_robot`).
    """

    images: dict[str, Tensor]
    state: Tensor
    keyframe: Tensor
    instruction: list[str]
    actions: Tensor
    action_mask: Tensor
    rewards: Tensor
    terminals: Tensor
    returns_to_go: Tensor
    success: Tensor
    timesteps: Tensor
    mask: Tensor
    task_index: Tensor
    robot: Tensor | None = None

    @property
    def batch_size(self) -> int:
        return len(self.instruction)

    def steps(self, start: int | None, stop: int | None) -> Self:
        """Views of the steps [start, stop): with T+1 steps loaded, `steps(0, -1)` and `steps(1, None)`
        are the current and the next steps that temporal-difference learning needs."""
        values: dict[str, Any] = {
            f.name: getattr(self, f.name)[:, start:stop]
            for f in dataclasses.fields(self)
            if f.name not in ("images", "instruction", "task_index", "robot")
        }
        values["images"] = {camera: image[:, start:stop] for camera, image in self.images.items()}
        return dataclasses.replace(self, **values)

    def observation(self, t: int = -1) -> Observation:
        """What the robots saw at step `t` of the window."""
        return Observation(
            images={camera: image[:, t] for camera, image in self.images.items()},
            state=self.state[:, t],
            instruction=self.instruction,
        )

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        return _to(self, device, non_blocking)

    def pin_memory(self) -> Self:
        return _map_tensors(self, lambda t: t.pin_memory())


D = TypeVar("D")


def _map_tensors(value: D, function: Callable[[Tensor], Tensor]) -> D:
    changed: dict[str, Any] = {}
    for f in dataclasses.fields(value):  # type: ignore[arg-type]
        v = getattr(value, f.name)
        if isinstance(v, Tensor):
            changed[f.name] = function(v)
        elif isinstance(v, dict):
            changed[f.name] = {k: function(t) for k, t in v.items()}
    return dataclasses.replace(value, **changed)  # type: ignore[type-var]


def _to(value: D, device: torch.device | str, non_blocking: bool) -> D:
    return _map_tensors(value, lambda t: t.to(device, non_blocking=non_blocking))


@runtime_checkable
class ActionDistribution(Protocol):
    """A distribution over action chunks for B windows of T steps, in robot units."""

    def loss(self, actions: Tensor, action_mask: Tensor | None = None) -> Tensor:
        """actions (B, T, K, A), action_mask (B, T, K) -> loss (B, T) to be minimised by imitation."""

    def mode(self) -> Tensor:
        """The most likely chunk, (B, T, K, A)."""

    def sample(self, generator: torch.Generator | None = None, *, temperature: float = 1.0) -> Tensor:
        """One random chunk, (B, T, K, A); `temperature` 0 gives the mode."""


@dataclass(frozen=True)
class PolicyOutput:
    """What a policy's forward pass gives.

    Attributes:
        features: (B, T, F); features at t depend on steps <= t and on no action of step t,
            so that a critic may take the action separately.
        actions: distribution over chunks (B, T, K, A).
        losses: what the policy asks to be added to an objective's loss, by name: (B, T) each, already weighted.
    """

    features: Tensor
    actions: ActionDistribution
    losses: dict[str, Tensor] = field(default_factory=dict)


class Memory(Protocol):
    """What a policy remembers of the past steps of B robots: a value, never changed in place.

    One robot is dropped or reordered by `select`; robots of different age are joined by `stack`.
    """

    @property
    def batch_size(self) -> int: ...

    def select(self, rows: Sequence[int]) -> Self: ...

    @classmethod
    def stack(cls, memories: Sequence[Self]) -> Self: ...


class Actor(Protocol):
    """Whatever can control robots: a policy, or a baseline. The only view that simulation has of a policy."""

    spec: Spec
    history: int

    def act(self, observation: Observation, memory: Any = None) -> tuple[Tensor, Any]:
        """-> actions (B, K, A) in robot units, and the new memory. `memory=None` starts an episode."""
