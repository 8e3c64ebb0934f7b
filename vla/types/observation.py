"""What robots see at one control step, and whether it fits a spec.

B robots, S state dimensions, H and W image height and width.
"""

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
    """What an observation is checked against: the part of a `Spec` that says what a robot
    senses."""

    # a protocol of its own: spec.py makes observations, and an import of it here would be a circle

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
        reward: float32 (B,), the sum of the rewards since the last observation; None if they
            are not counted.
        target_return: float32 (B,), the return that a return-conditioned policy should reach from
            the start of the episode on; None leaves it to the policy.
        privileged: float32 (B, D), what only a simulator knows of the world; None on real robots.
    """

    images: dict[str, Tensor]
    state: Tensor
    instruction: list[str]
    # since the last observation, not of the last step: a chunk has several steps
    reward: Tensor | None = None
    target_return: Tensor | None = None
    privileged: Tensor | None = None

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
        """The observation of B robots, or of one.

        For one robot `instruction` is a text, and nothing has the axis B.

        Args:
            images: camera -> uint8 (B, H, W, 3) RGB, 0 to 255; of one robot (H, W, 3).
            state: numbers (B, S) in robot units, kept as float32; of one robot (S,).
            instruction: B texts; of one robot a text.
            reward, target_return: see the class; B numbers, or one.

        Raises SpecError if the instruction is no text, or an input is no array of numbers. Whether
        sizes and types are those of a policy is up to `check`, which `act` calls.
        """
        one_robot = isinstance(instruction, str)
        if not one_robot and not _are_texts(instruction):
            raise SpecError(
                f"instruction is {instruction!r}: expected a text for one robot, or a list of B "
                'texts; a policy that reads none takes "" too'
            )
        if not isinstance(images, Mapping):
            kind = type(images).__name__
            raise SpecError(f'images is {kind}: expected a dict {{"camera": array}}, {{}} for none')
        arrays = {camera: _numbers(f"camera {camera!r}", image) for camera, image in images.items()}
        # float64 is what most simulators give, and float32 what networks compute in
        state = _numbers("state", state).astype(np.float32)
        if one_robot:
            arrays = {camera: image[None] for camera, image in arrays.items()}
            state = state[None]
        return cls(
            images={camera: _tensor(image) for camera, image in arrays.items()},
            state=_tensor(state),
            instruction=[instruction] if isinstance(instruction, str) else list(instruction),
            reward=_per_robot(reward),
            target_return=_per_robot(target_return),
        )

    def check(self, spec: Sensors) -> None:
        """Raises SpecError naming what does not fit `spec`, or the state's dimension that is not
        finite.

        Extra cameras are allowed.
        """
        B = self.batch_size
        for camera, size in spec.cameras.items():
            self._check_image(camera, size)
        if tuple(self.state.shape) != (B, spec.state_dim):
            raise SpecError(f"state: expected {(B, spec.state_dim)}, got {tuple(self.state.shape)}")
        finite_BS = torch.isfinite(self.state)
        if not bool(finite_BS.all()):
            dims = (~finite_BS).any(0).nonzero().flatten().tolist()
            names = ", ".join(spec.state_names[dim] for dim in dims)
            raise SpecError(
                f"state holds NaN or infinity in {names}: the simulation has diverged or a sensor "
                "is broken"
            )
        _check_numbers("reward", self.reward, B)
        _check_numbers("target_return", self.target_return, B)

    def _check_image(self, camera: str, size: tuple[int, int]) -> None:
        if camera not in self.images:
            has = ", ".join(self.images) or "none"
            raise SpecError(
                f"observation lacks camera {camera!r} (it has: {has}); name the cameras of the env "
                "as in the policy's spec"
            )
        image = self.images[camera]
        wanted = (self.batch_size, *size, 3)
        # float images of 0 to 1 would look black to the policy, without any error
        if image.dtype != torch.uint8 or tuple(image.shape) != wanted:
            kind = str(image.dtype).removeprefix("torch.")
            raise SpecError(
                f"camera {camera!r}: expected uint8 {wanted}, got {kind} {tuple(image.shape)}; "
                f"{_image_remedy(image, wanted)}"
            )

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        """The observation on `device`; images stay uint8."""
        return to_device(self, device, non_blocking)


def _are_texts(instruction: Any) -> bool:
    if not isinstance(instruction, Sequence | np.ndarray):
        return False
    return all(isinstance(text, str) for text in instruction)


def _numbers(name: str, values: Any) -> np.ndarray:
    """`values` as an array. Raises SpecError if they are none of numbers."""
    try:
        array = np.asarray(values)
    except ValueError as error:  # of rows of different length
        raise SpecError(f"{name}: is no array: {error}; give all robots the same sizes") from error
    # bool, unsigned, int and float: texts and objects would fail deep inside the policy
    if array.dtype.kind not in "buif":
        kind = type(values).__name__
        raise SpecError(f"{name}: is {kind} of {array.dtype}: expected an array of numbers")
    return array


def _tensor(array: np.ndarray) -> Tensor:
    # contiguous: images that were flipped have negative strides, which torch refuses
    return torch.from_numpy(np.ascontiguousarray(array))


def _per_robot(values: Sequence[float] | float | None) -> Tensor | None:
    """float32 (B,), also of one number."""
    return None if values is None else torch.tensor(values, dtype=torch.float32).view(-1)


def _check_numbers(name: str, values: Tensor | None, B: int) -> None:
    """Raises SpecError if optional numbers are not B finite ones."""
    if values is None:
        return
    if tuple(values.shape) != (B,) or not bool(torch.isfinite(values).all()):
        raise SpecError(f"{name}: expected {B} finite numbers, got {values.tolist()}")


def _image_remedy(image: Tensor, wanted: tuple[int, ...]) -> str:
    """How to fix an image that is no uint8 of the shape `wanted`, (B, H, W, 3)."""
    B, *size, _ = wanted
    shape = tuple(image.shape)
    remedies = []
    if image.dtype != torch.uint8:
        remedies.append("give pixels as uint8, 0 to 255")
    # each remedy is applied to the shape, so that the next one speaks of what is left to fix
    if len(shape) == 3:
        remedies.append(
            "the batch axis is missing: add it (image[None]), or give one robot's instruction as a "
            "text"
        )
        shape = (B, *shape)
    if len(shape) == 4 and shape[3] != 3 and shape[1] == 3:
        remedies.append("put channels last, (B, H, W, 3)")
        shape = (shape[0], *shape[2:], 3)
    if len(shape) != 4 or shape[3] != 3:
        remedies.append("give RGB images, (B, H, W, 3)")
    elif shape[0] != B:
        remedies.append(f"give an image for each of the {B} instructions")
    elif list(shape[1:3]) != size:
        remedies.append("render at the policy's size")
    return "; ".join(remedies)
