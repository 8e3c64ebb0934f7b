"""Whether pictures come as they did in training: order of cameras, colours, which way is up.

B windows, T steps, H and W: image height and width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
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
    probe = subject.probe
    assert probe is not None
    sizes = subject.policy.spec.cameras
    for first, second in combinations(sizes, 2):
        # of other sizes another check says so
        if sizes[first] != sizes[second]:
            continue
        fall = _fall(probe, _swapped(first, second))
        if fall is not None:
            yield Symptom(
                "error",
                f"cameras {first!r} and {second!r} are swapped: with the one's pictures for the "
                f"other's the policy's error is {100 * fall:.0f} % smaller",
                f"keys.cameras.{first}=KEY and keys.cameras.{second}=KEY name them; or swap the "
                "cables",
                {"error_fall": fall},
            )


def _swapped(first: str, second: str) -> Change:
    def changed(batch: Batch) -> Batch:
        images = {**batch.images, first: batch.images[second], second: batch.images[first]}
        return dataclasses.replace(batch, images=images)

    return changed


@register("doctor_checks", "colours")
@examines("whether the policy does better with red and blue swapped", needs=("pictures",))
def colours(subject: Subject) -> Iterator[Symptom]:
    """Pictures are RGB, as in training."""
    probe = subject.probe
    assert probe is not None
    for cameras in _groups(subject):
        fall = _fall(probe, _only(cameras, lambda image: image.flip(4)))
        if fall is not None:
            named = ", ".join(map(repr, cameras))
            setting = " ".join(f"keys.colours.{camera}=bgr" for camera in cameras)
            yield Symptom(
                "error",
                f"red and blue are swapped in {named}: with its channels in the other order the "
                f"policy's error is {100 * fall:.0f} % smaller",
                f"read it with {setting}; OpenCV gives BGR: cv2.cvtColor(image, cv2.COLOR_BGR2RGB)",
                {"error_fall": fall, "cameras": list(cameras)},
            )
            return


@register("doctor_checks", "orientation")
@examines("whether the policy does better with pictures turned", needs=("pictures",))
def orientation(subject: Subject) -> Iterator[Symptom]:
    """Pictures are the way up that they were in training."""
    probe = subject.probe
    assert probe is not None
    falls = {}
    for name, turn in _TURNS.items():
        for cameras in _groups(subject):
            fall = _fall(probe, _only(cameras, turn))
            if fall is not None:
                falls[name, cameras] = fall
    if not falls:
        return
    # one turn may look like half of another: the best is the one
    (name, cameras), fall = max(falls.items(), key=lambda item: item[1])
    setting = " ".join(f"keys.orientation.{camera}={name}" for camera in cameras)
    yield Symptom(
        "error",
        f"pictures of {', '.join(map(repr, cameras))} are turned: under {name} the policy's error "
        f"is {100 * fall:.0f} % smaller",
        f"read them with {setting}, or turn the camera",
        {"error_fall": fall, "turn": name},
    )


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
