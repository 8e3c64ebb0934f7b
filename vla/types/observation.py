"""What robots see at one control step, and whether it fits a spec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from vla.types.errors import SpecError
from vla.types.tensors import to_device


class Sensors(Protocol):
    """What an observation is checked against: the part of a `Spec` that says what a robot senses."""

    @property
    def cameras(self) -> dict[str, tuple[int, int]]: ...

    @property
    def state_names(self) -> tuple[str, ...]: ...

    @property
    def state_dim(self) -> int: ...


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
        """Number of robots, B."""
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

        Raises SpecError if the instruction is no text, or an input is no array of numbers. Whether sizes and types are a
        policy's is told by `check`, which `act` calls.
        """
        alone = isinstance(instruction, str)
        if not alone and not (
            isinstance(instruction, Sequence | np.ndarray)
            and all(isinstance(text, str) for text in instruction)
        ):
            raise SpecError(
                f"instruction is {instruction!r}: expected a text for one robot, or a list of B texts; "
                'a policy that reads none takes "" too'
            )
        if not isinstance(images, Mapping):
            raise SpecError(
                f'images is {type(images).__name__}: expected a dict {{"camera": array}}, {{}} for none'
            )
        pictures = {
            camera: _numbers(f"camera {camera!r}", image) for camera, image in images.items()
        }
        state = _numbers("state", state).astype(np.float32)
        if alone:
            pictures, state = (
                {camera: image[None] for camera, image in pictures.items()},
                state[None],
            )
        return cls(
            images={
                camera: torch.from_numpy(np.ascontiguousarray(image))
                for camera, image in pictures.items()
            },
            state=torch.from_numpy(np.ascontiguousarray(state)),
            instruction=[instruction] if isinstance(instruction, str) else list(instruction),
            reward=None if reward is None else torch.tensor(reward, dtype=torch.float32).view(-1),
            target_return=None
            if target_return is None
            else torch.tensor(target_return, dtype=torch.float32).view(-1),
        )

    def check(self, spec: Sensors) -> None:
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
            bad = ", ".join(
                spec.state_names[i] for i in (~finite_BS).any(0).nonzero().flatten().tolist()
            )
            raise SpecError(
                f"state holds NaN or infinity in {bad}: the simulation has diverged or a sensor is broken"
            )
        for name in ("reward", "target_return"):
            values = getattr(self, name)
            if values is not None and (
                tuple(values.shape) != (B,) or not bool(torch.isfinite(values).all())
            ):
                raise SpecError(f"{name}: expected {B} finite numbers, got {values.tolist()}")

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        """The observation with its tensors on `device`."""
        return to_device(self, device, non_blocking)


def _numbers(name: str, values: Any) -> np.ndarray:
    """`values` as an array. Raises SpecError if they are none of numbers."""
    try:
        array = np.asarray(values)
    except ValueError as error:  # of rows of different length
        raise SpecError(f"{name}: is no array: {error}; give all robots the same sizes") from error
    if array.dtype.kind not in "buif":
        raise SpecError(
            f"{name}: is {type(values).__name__} of {array.dtype}: expected an array of numbers"
        )
    return array


def _image_remedy(image: Tensor, B: int, h: int, w: int) -> str:
    """How to mend an image that is no uint8 (B, h, w, 3)."""
    shape, remedies = tuple(image.shape), []
    if image.dtype != torch.uint8:
        remedies.append("give pixels as uint8, 0 to 255")
    if len(shape) == 3:
        remedies.append(
            "the batch axis is missing: add it (image[None]), or give one robot's instruction as a text"
        )
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
