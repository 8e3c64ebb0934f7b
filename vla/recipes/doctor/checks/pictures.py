"""Whether pictures come as they did in training: order of cameras, colours, which way is up.

B windows, T steps, H and W: image height and width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations

from torch import Tensor

from vla.common.registry import register
from vla.recipes.doctor.check import Symptom, examines
from vla.recipes.doctor.probe import Change, Probe, with_pictures
from vla.recipes.doctor.subject import Subject
from vla.types import Batch

_BETTER = 0.05
"""A change that makes the error smaller by this share is no chance."""
_TURNS: dict[str, Callable[[Tensor], Tensor]] = {
    "rotate_180": lambda image: image.flip(2, 3),
    "flip_up_down": lambda image: image.flip(2),
    "flip_left_right": lambda image: image.flip(3),
}
"""Of images (B, T, H, W, 3)."""


@register("doctor_checks", "camera_order")
@examines("whether the policy does better with two cameras swapped", needs=("pictures",))
def camera_order(subject: Subject) -> Iterator[Symptom]:
    """Each camera shows what its name says."""
    change = best_change(subject)
    if change is None or change.kind != "camera_order":
        return
    first, second = change.cameras
    yield Symptom(
        "error",
        f"cameras {first!r} and {second!r} are swapped: with the one's pictures for the other's "
        f"the policy's error is {100 * change.fall:.0f} % smaller",
        f"say which is which with cameras.{first}=KEY cameras.{second}=KEY, or swap the cables",
        {"error_fall": change.fall},
    )


@register("doctor_checks", "colours")
@examines("whether the policy does better with red and blue swapped", needs=("pictures",))
def colours(subject: Subject) -> Iterator[Symptom]:
    """Pictures are RGB, as in training."""
    change = best_change(subject)
    if change is None or change.kind != "colours":
        return
    setting = " ".join(f"colours.{camera}=bgr" for camera in change.cameras)
    yield Symptom(
        "error",
        f"red and blue are swapped in {', '.join(map(repr, change.cameras))}: with its channels in "
        f"the other order the policy's error is {100 * change.fall:.0f} % smaller",
        f"read it with {setting}; OpenCV gives BGR: cv2.cvtColor(image, cv2.COLOR_BGR2RGB)",
        {"error_fall": change.fall, "cameras": list(change.cameras)},
    )


@register("doctor_checks", "orientation")
@examines("whether the policy does better with pictures turned", needs=("pictures",))
def orientation(subject: Subject) -> Iterator[Symptom]:
    """Pictures are the way up that they were in training."""
    change = best_change(subject)
    if change is None or change.kind not in _TURNS:
        return
    setting = " ".join(f"orientation.{camera}={change.kind}" for camera in change.cameras)
    yield Symptom(
        "error",
        f"pictures of {', '.join(map(repr, change.cameras))} are turned: under {change.kind} the "
        f"policy's error is {100 * change.fall:.0f} % smaller",
        f"read them with {setting}, or turn the camera",
        {"error_fall": change.fall, "turn": change.kind},
    )


@dataclass(frozen=True)
class PictureChange:
    """A change of the pictures under which the policy surely does better.

    Attributes:
        kind: "camera_order", "colours", or the name of a turn.
        cameras: whose pictures they are.
        fall: of the error, relative.
    """

    kind: str
    cameras: tuple[str, ...]
    fall: float


def best_change(subject: Subject) -> PictureChange | None:
    """The change that makes the policy fit best; None if none surely does.

    One alone: a picture in which several things are wrong looks a little better under many changes,
    and which are left shows once the first is mended.
    """
    probe = subject.probe
    if probe is None or not subject.policy.spec.cameras:
        return None
    if "picture_changes" not in subject.memo:
        found = [
            PictureChange(kind, cameras, fall)
            for kind, cameras, change in _changes(subject)
            if (fall := _fall(probe, change)) is not None
        ]
        subject.memo["picture_changes"] = found
    changes: list[PictureChange] = subject.memo["picture_changes"]
    return max(changes, key=lambda change: change.fall, default=None)


def _changes(subject: Subject) -> Iterator[tuple[str, tuple[str, ...], Change]]:
    """(kind, cameras, change) of all that is tried."""
    sizes = subject.policy.spec.cameras
    for first, second in combinations(sizes, 2):
        # of cameras of other sizes the check of specs says so
        if sizes[first] == sizes[second]:
            yield "camera_order", (first, second), _swapped(first, second)
    for cameras in _groups(subject):
        yield "colours", cameras, _only(cameras, lambda image: image.flip(4))
        for name, turn in _TURNS.items():
            yield name, cameras, _only(cameras, turn)


def _swapped(first: str, second: str) -> Change:
    def changed(batch: Batch) -> Batch:
        images = {**batch.images, first: batch.images[second], second: batch.images[first]}
        return dataclasses.replace(batch, images=images)

    return changed


def _groups(subject: Subject) -> list[tuple[str, ...]]:
    """All cameras together, and each by itself if there are several."""
    cameras = tuple(subject.policy.spec.cameras)
    return [cameras] if len(cameras) == 1 else [cameras, *((camera,) for camera in cameras)]


def _only(cameras: tuple[str, ...], change: Callable[[Tensor], Tensor]) -> Change:
    return with_pictures(lambda camera, image: change(image) if camera in cameras else image)


def _fall(probe: Probe, change: Change) -> float | None:
    """The relative fall of the error under a change; None if it does not surely fall."""
    changed = probe.scores(change)
    error = probe.difference(changed.error, probe.own.error)
    loss = probe.difference(changed.loss, probe.own.loss)
    relative = -error.mean / max(float(probe.own.error.mean()), 1e-9)
    # of both: a loss may fall where the policy is merely less sure of what is wrong
    sure = error.high < 0 and loss.high < 0
    return relative if sure and relative > _BETTER else None
