"""One episode in memory, its images as PNG, and the check that it fits a spec.

L: steps of the episode, S: state dimensions, A: action dimensions, H and W: image height and width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from vla.common.foreign.json_files import JsonError, parse_json
from vla.common.renamed import former_attributes
from vla.data.errors import DataError
from vla.data.extras import check_extras
from vla.data.storage.image_files import decode_image as decode_image
from vla.data.storage.image_files import encode_png as encode_png
from vla.types import Spec

Scalar = int | float | str | bool
_ROUNDING = 1e-6
"""What an action may lie beyond a limit, as a share of limits larger than 1: float32 rounds."""
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def read_info(text: object) -> dict[str, Scalar]:
    """What is noted of an episode, of its column `info`. Raises DataError if it is no JSON object.

    Text that is damaged must not be taken for an episode of which nothing is known.
    """
    # the table does not say here which episode it is: the remedy is the same for all
    place = "the episodes table: info"
    try:
        found = parse_json(str(text), place)
    except JsonError as error:
        raise DataError(f"{error}; restore meta/episodes") from error
    if not isinstance(found, dict):
        raise DataError(
            f"{place}: is {str(text)[:40]!r}, expected an object; restore meta/episodes"
        )
    return found


@dataclass(frozen=True)
class Episode:
    """What happened from a reset to an end.

    Step t holds what was seen before action t, the action, and what followed it.

    Attributes:
        images: camera -> uint8 (L, H, W, 3) RGB, or L PNG files as bytes.
        state: float32 (L, S), robot units.
        actions: float32 (L, A), robot units.
        rewards: float32 (L,), the reward that followed action t.
        success: bool (L,), whether the task was solved after action t.
        terminated: True if the last action truly ended the task; False if time ran out.
        instruction: the task in words; if it changes, that of the first step.
        info: what else to remember (seed, noise, ...); saved as JSON.
        instructions: L texts, if the instruction changes within the episode (sub-tasks); None if
            `instruction` holds throughout.
        extras: name -> (L,) or (L, D) numbers or truth values: what else is known of each step
            (`log_prob`, `intervention`, `cost`, `advantage`). A column of the file each, in every
            episode of a dataset.
    """

    images: dict[str, np.ndarray | list[bytes]]
    state: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    success: np.ndarray
    terminated: bool
    instruction: str
    info: dict[str, Scalar] = field(default_factory=dict)
    instructions: Sequence[str] | None = None
    extras: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def step_instructions(self) -> list[str]:
        """What each step asked for, L texts."""
        if self.instructions is None:
            return [self.instruction] * len(self)
        return list(self.instructions)

    def png(self, camera: str) -> list[bytes]:
        """The camera's L images as PNG files, encoded here if they are not yet."""
        images = self.images[camera]
        return images if isinstance(images, list) else [encode_png(image) for image in images]

    def frames(self, camera: str) -> np.ndarray:
        """The camera's images as uint8 (L, H, W, 3), decoded here if they are not yet."""
        images = self.images[camera]
        if isinstance(images, list):
            return np.stack([decode_image(image) for image in images])
        return images


def png_size(data: bytes) -> tuple[int, int]:
    """(height, width) from the header of a PNG file, without decoding it. Raises DataError if it is
    no PNG."""
    if not isinstance(data, bytes) or len(data) < 24 or data[:8] != _PNG_SIGNATURE:
        raise DataError("is no PNG file; encode the image with vla.data.encode_png")
    # the first chunk of a PNG is its header: width at byte 16, height at byte 20
    width = int.from_bytes(data[16:20], "big")
    height = int.from_bytes(data[20:24], "big")
    return height, width


def check_episode(episode: Episode, spec: Spec, index: int) -> None:
    """Raises DataError naming episode, field, step, value and remedy if `episode` does not fit
    `spec`."""
    where = f"episode {index}"
    steps = len(episode.actions)
    if steps == 0:
        raise DataError(
            f"{where}: actions: has no steps; skip episodes that ended before the first action"
        )
    _check_instructions(where, episode)
    _check_array(where, "actions", episode.actions, (steps, spec.action_dim), spec.action_names)
    _check_array(where, "state", episode.state, (steps, spec.state_dim), spec.state_names)
    _check_array(where, "rewards", episode.rewards, (steps,), ())
    if np.shape(episode.success) != (steps,):
        raise DataError(
            f"{where}: success: shape is {np.shape(episode.success)}, expected {(steps,)}: one "
            "per action"
        )
    # before the pictures, which take longest to look at
    check_extras(where, episode.extras, steps)
    _check_bounds(where, episode.actions, spec)
    for camera in episode.images:
        if camera not in spec.cameras:
            known = ", ".join(spec.cameras) or "none"
            raise DataError(
                f"{where}: images: camera {camera!r} is not in the spec (it has: {known}); add it "
                "there"
            )
    for camera, size in spec.cameras.items():
        if camera not in episode.images:
            given = ", ".join(episode.images) or "none"
            raise DataError(
                f"{where}: images: camera {camera!r} of the spec is missing (given: {given}); "
                "record it"
            )
        _check_images(where, camera, episode.images[camera], steps, size)
    for key, value in episode.info.items():
        if not isinstance(value, (int, float, str, bool)):
            raise DataError(
                f"{where}: info: {key!r} is {type(value).__name__}; give an int, float, str or bool"
            )


def _check_instructions(where: str, episode: Episode) -> None:
    texts = episode.step_instructions
    if len(texts) != len(episode):
        raise DataError(
            f"{where}: instructions: has {len(texts)} texts for {len(episode)} actions; give one "
            "per action, or leave it out"
        )
    if texts[0] != episode.instruction:
        raise DataError(
            f"{where}: instruction: is {episode.instruction!r}, instructions begin with "
            f"{texts[0]!r}; give the first of them as instruction"
        )
    for step, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            place = f"instructions: step {step}" if episode.instructions else "instruction"
            raise DataError(f"{where}: {place}: is {text!r}; give the task in words")


def _check_array(
    where: str,
    name: str,
    values: np.ndarray,
    shape: tuple[int, ...],
    dimension_names: Sequence[str],
) -> None:
    if np.shape(values) != shape:
        raise DataError(
            f"{where}: {name}: shape is {np.shape(values)}, expected {shape}; all fields need one "
            "row per action"
        )
    # Judged as float32, which is what will be stored: what that cannot hold becomes infinite.
    with np.errstate(over="ignore"):
        check_finite(where, name, np.asarray(values, dtype=np.float32), dimension_names)


def check_finite(
    where: str,
    name: str,
    values: np.ndarray,
    dimension_names: Sequence[str] = (),
    remedy: str = "drop the episode or repair the sensor",
) -> None:
    """Raises DataError naming the first step and dimension of `values` (L,) or (L, D) that is NaN
    or infinite, and what to do about it."""
    finite = np.isfinite(values)
    if finite.all():
        return
    first = tuple(np.argwhere(~finite)[0])
    step, dims = int(first[0]), first[1:]
    dimension = f", {dimension_names[dims[0]]!r}" if dims and dimension_names else ""
    value = values[first]
    raise DataError(f"{where}: {name}: step {step}{dimension} is {value}; {remedy}")


def beyond(
    actions: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
) -> np.ndarray:
    """bool, whether each number lies outside of [low, high] by more than rounding."""
    slack_low = _ROUNDING * np.maximum(1.0, np.abs(low))
    slack_high = _ROUNDING * np.maximum(1.0, np.abs(high))
    return np.asarray((actions < low - slack_low) | (actions > high + slack_high))


def _check_bounds(where: str, actions: np.ndarray, spec: Spec) -> None:
    low = np.asarray(spec.action_low)
    high = np.asarray(spec.action_high)
    outside = beyond(actions, low, high)
    if outside.any():
        step, dim = (int(v) for v in np.argwhere(outside)[0])
        raise DataError(
            f"{where}: actions: step {step}, {spec.action_names[dim]!r} is "
            f"{float(actions[step, dim])}, outside [{low[dim]}, {high[dim]}] of the spec; clip "
            "the action before it is executed, or widen the spec"
        )
    between = np.asarray(actions, np.float32) != spec.to_ends(np.asarray(actions, np.float32))
    if between.any():
        step, dim = (int(v) for v in np.argwhere(between)[0])
        raise DataError(
            f"{where}: actions: step {step}, {spec.action_names[dim]!r} is "
            f"{float(actions[step, dim])}, and the spec says that it is {low[dim]:g} or "
            f"{high[dim]:g}; move it to the nearer of them (`Spec.to_ends`)"
        )


def _check_images(
    where: str,
    camera: str,
    images: np.ndarray | list[bytes],
    steps: int,
    size: tuple[int, int],
) -> None:
    name = f"images[{camera!r}]"
    if len(images) != steps:
        raise DataError(
            f"{where}: {name}: has {len(images)} frames for {steps} actions; record one before "
            "each action"
        )
    if isinstance(images, list):
        # from the headers alone: decoding every image here would cost more than recording did
        for step, data in enumerate(images):
            try:
                found = png_size(data)
            except DataError as error:
                raise DataError(f"{where}: {name}: step {step} {error}") from None
            if found != size:
                raise DataError(
                    f"{where}: {name}: step {step} is {found[0]}x{found[1]}, the spec says "
                    f"{size[0]}x{size[1]}; render at the spec's size"
                )
    elif images.dtype != np.uint8 or images.shape != (steps, *size, 3):
        raise DataError(
            f"{where}: {name}: is {images.dtype} {images.shape}, expected uint8 "
            f"{(steps, *size, 3)}; render at the spec's size, RGB, 0 to 255"
        )


if not TYPE_CHECKING:
    __getattr__ = former_attributes(__name__, {"decode_png": "decode_image"})
