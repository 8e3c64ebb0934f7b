"""The tensors of a trained policy go into another policy, as far as they mean the same there.

Names and shapes decide, with three kinds of exception. Positions follow their tokens: with fewer cameras, another history
or another map, each row goes to the token that has its place. Heads and what reads actions are for one set of actions, what
reads the state for one set of state dimensions. Statistics belong to data.

T steps, D width, C cameras, N rows, h and w size of the map.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vla.models.heads.base import Head
from vla.models.layers.vision_encoder import VisionEncoder
from vla.models.policy import Policy
from vla.models.trajectory_transformer import TrajectoryTransformer

STATE_PARTS = ("state_embedding.*", "state_projection.*", "keyframe_head.*")
ACTION_PARTS = ("action_embedding.*", "vocabulary.*")
LANGUAGE_PARTS = ("language_embedding.*", "vision.condition.*", "language_mean", "language_std")
STATISTICS = ("state_mean", "state_std")
Slot = tuple[int | None, str, str | None]
"""Of a position: steps before the last (None for the prefix), segment, camera (None for other segments)."""


@dataclass
class Transplant:
    """What became of the tensors of the new policy.

    Attributes:
        kept: taken over as they were.
        adapted: name -> how they were taken over.
        anew: name -> why they were not.
        left: tensors of the old policy that the new one has no place for.
        shares: part of the old trunk (vision, transformer, ...) -> share of its parameters that was taken over.
        mismatch: the first trunk parameter that was not, in words.
    """

    kept: list[str] = field(default_factory=list)
    adapted: dict[str, str] = field(default_factory=dict)
    anew: dict[str, str] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    shares: dict[str, float] = field(default_factory=dict)
    mismatch: str | None = None

    @property
    def share(self) -> float:
        """Mean over the trunk's parts: an image trunk of many parameters does not speak for all of them."""
        return sum(self.shares.values()) / max(len(self.shares), 1)


def cameras_of(policy: Policy) -> tuple[str, ...]:
    """The cameras that a policy looks through, in its order."""
    vision = getattr(policy, "vision", None)
    chosen = (
        vision.cameras
        if isinstance(vision, VisionEncoder)
        else getattr(policy, "cameras", policy.spec.cameras)
    )
    return tuple(chosen)


def paired_cameras(old: Policy, new: Policy, chosen: Mapping[str, str]) -> dict[str, str]:
    """New camera -> old camera: those chosen, then those of the same name, then the others in their order."""
    there, here = cameras_of(old), cameras_of(new)
    pairs = dict(chosen) | {
        camera: camera for camera in here if camera in there and camera not in chosen
    }
    spare = [camera for camera in there if camera not in pairs.values()]
    return pairs | dict(
        zip([camera for camera in here if camera not in pairs], spare, strict=False)
    )


@torch.no_grad()
def transplant(
    old: Policy,
    new: Policy,
    *,
    cameras: Mapping[str, str],
    remake: Collection[str] | None,
    keep_statistics: bool,
) -> Transplant:
    """Copies into `new` what it can use of `old`.

    Args:
        cameras: new camera -> old camera.
        remake: tensors that are made anew even where they fit; None for the rule in this module's docstring.
        keep_statistics: statistics (of states, and those that heads take from data) are taken over too.
    """
    there, here = dict(old.state_dict()), dict(new.state_dict())
    parts = parts_of(new)
    reasons = _other_meanings(old, new) if remake is None else {}
    found = Transplant(left=[name for name in there if name not in here])
    for name, tensor in here.items():
        part = parts.get(name, "trunk")
        if part == "statistics" and not keep_statistics:
            found.anew[name] = "is fitted to the new data"
        elif remake is not None and name in remake:
            found.anew[name] = "is in transfer.remake"
        elif part in reasons:
            found.anew[name] = reasons[part]
        elif name not in there:
            found.anew[name] = "is not in the checkpoint"
        elif (moved := _moved(name, old, new, cameras)) is not None:
            values, how = moved
            tensor.copy_(values)
            if values.shape == there[name].shape and torch.equal(values, there[name]):
                found.kept.append(name)
            else:
                found.adapted[name] = how
        elif tensor.shape != there[name].shape:
            found.anew[name] = (
                f"has shape {tuple(there[name].shape)} in the checkpoint, {tuple(tensor.shape)} here"
            )
        else:
            tensor.copy_(there[name])
            found.kept.append(name)
    _measure(old, found)
    return found


def parts_of(policy: Policy) -> dict[str, str]:
    """Tensor -> "head", "action", "state", "language" or "statistics"; the others are the trunk's."""
    parts = {}
    heads = {name: module for name, module in policy.named_modules() if isinstance(module, Head)}
    buffers = {name for name, _ in policy.named_buffers()}
    for name in policy.state_dict():
        if any(name.startswith(f"{head}.") for head in heads):
            parts[name] = "statistics" if name in buffers else "head"
        elif name in STATISTICS:
            parts[name] = "statistics"
        for part, patterns in (
            ("state", STATE_PARTS),
            ("action", ACTION_PARTS),
            ("language", LANGUAGE_PARTS),
        ):
            if any(fnmatchcase(name, pattern) for pattern in patterns):
                parts[name] = part
    return parts


def _other_meanings(old: Policy, new: Policy) -> dict[str, str]:
    """Part -> why its tensors mean something else in the new policy, even where they fit."""
    reasons = {}
    if old.spec.state_names != new.spec.state_names:
        reasons["state"] = "reads another state"
    if old.language.name != new.language.name:
        reasons["language"] = "reads another text encoder"
    settings = [
        (type(p), getattr(p.config, "head", None), getattr(p.config, "tokenizer", None))
        for p in (old, new)
    ]
    if old.spec.action_names != new.spec.action_names:
        reasons |= dict.fromkeys(("head", "action"), "is for other actions")
    elif settings[0][1] != settings[1][1]:
        reasons["head"] = "is another head"
    if settings[0][2] != settings[1][2]:
        reasons = dict.fromkeys(("head", "action"), "is for another tokenizer") | reasons
    return reasons


def _measure(old: Policy, found: Transplant) -> None:
    """Fills in how much of the old trunk was taken over."""
    parts, taken = parts_of(old), {*found.kept, *found.adapted}
    trunk = {name: p for name, p in old.named_parameters() if name not in parts}
    for owner in dict.fromkeys(name.partition(".")[0] for name in trunk):
        own = {name: p.numel() for name, p in trunk.items() if name.partition(".")[0] == owner}
        found.shares[owner] = sum(size for name, size in own.items() if name in taken) / max(
            sum(own.values()), 1
        )
    lost = [name for name in trunk if name not in taken]
    if lost:
        shape = tuple(trunk[lost[0]].shape)
        found.mismatch = f"{lost[0]} {found.anew.get(lost[0], f'of shape {shape} has no place in the new policy')}"


# --- positions ----------------------------------------------------------------------------------------


def _moved(
    name: str, old: Policy, new: Policy, cameras: Mapping[str, str]
) -> tuple[Tensor, str] | None:
    """The values of a tensor whose rows belong to tokens or cameras, and how they came about; None for others, and
    where there is nothing to take."""
    owner, _, leaf = name.rpartition(".")
    there, here = _module(old, owner), _module(new, owner)
    if isinstance(there, VisionEncoder) and isinstance(here, VisionEncoder):
        if leaf == "map_position":
            return _resized(there.map_position, here.map_position)
        if leaf == "camera_embedding":
            return _cameras_moved(there, here, cameras)
    both = isinstance(there, TrajectoryTransformer) and isinstance(here, TrajectoryTransformer)
    if (
        both
        and leaf == "position"
        and there.positions == here.positions
        and there.width == here.width
    ):
        return _positions_moved(old, new, there, here, cameras)
    return None


def _module(policy: nn.Module, name: str) -> Any:
    try:
        return policy.get_submodule(name)
    except AttributeError:
        return None


def _resized(there_Dhw: Tensor, here_Dhw: Tensor) -> tuple[Tensor, str] | None:
    """Positions in a map of another size: interpolated, corners on corners."""
    if len(there_Dhw) != len(here_Dhw):
        return None
    if there_Dhw.shape == here_Dhw.shape:
        return there_Dhw, "as it was"
    size = (here_Dhw.shape[1], here_Dhw.shape[2])
    values = F.interpolate(there_Dhw[None], size=size, mode="bilinear", align_corners=True)[0]
    return values, f"interpolated from {tuple(there_Dhw.shape[1:])} to {size}"


def _cameras_moved(
    there: VisionEncoder, here: VisionEncoder, cameras: Mapping[str, str]
) -> tuple[Tensor, str] | None:
    if there.camera_embedding.shape[2] != here.camera_embedding.shape[2]:
        return None
    values_C1D, taken = here.camera_embedding.clone(), []
    for row, camera in enumerate(here.cameras):
        if cameras.get(camera) in there.cameras:
            values_C1D[row] = there.camera_embedding[there.cameras.index(cameras[camera])]
            taken.append(f"{camera} from {cameras[camera]}")
    return (values_C1D, ", ".join(taken)) if taken else None


def _positions_moved(
    old: Policy,
    new: Policy,
    there: TrajectoryTransformer,
    here: TrajectoryTransformer,
    cameras: Mapping[str, str],
) -> tuple[Tensor, str]:
    """Every token takes the position that its like had; steps older than the old policy knew take those of the oldest."""
    values_ND = here.position.clone()
    rows_of = slots_of(old, there)
    oldest = max((step for step, _, _ in rows_of if step is not None), default=0)
    taken = 0
    for (step, segment, camera), rows in slots_of(new, here).items():
        known = rows_of.get(
            (
                None if step is None else min(step, oldest),
                segment,
                None if camera is None else cameras.get(camera, ""),
            )
        )
        if known is None:
            continue
        source_ND = there.position[known]
        if segment == "image" and len(known) != len(rows):
            source_ND = _regridded(source_ND, old, new)
        count = min(len(source_ND), len(rows))
        values_ND[rows[:count]] = source_ND[:count]
        taken += count
    return values_ND, f"{taken} of {len(values_ND)} rows by their tokens' places"


def slots_of(policy: Policy, trunk: TrajectoryTransformer) -> dict[Slot, list[int]]:
    """The rows of the trunk's positions by what stands there."""
    layout, row = trunk.layout, 0
    steps = trunk.steps if trunk.positions == "absolute" else 1
    found: dict[Slot, list[int]] = {}
    places = [(None, segment) for segment in layout.prefix]
    for step, segment in [
        *places,
        *((steps - 1 - t, segment) for t in range(steps) for segment in layout.step),
    ]:
        cameras = cameras_of(policy) if segment.name == "image" else (None,)
        tokens = segment.tokens // len(cameras)
        for camera in cameras:
            found[step, segment.name, camera] = list(range(row, row + tokens))
            row += tokens
    return found


def _regridded(source_ND: Tensor, old: Policy, new: Policy) -> Tensor:
    """Positions of a camera's tokens for another map; as they are where the tokens are no map but learned ones."""
    sizes = []
    for policy in (old, new):
        vision = getattr(policy, "vision", None)
        if not isinstance(vision, VisionEncoder) or vision.config.token_learner:
            return source_ND
        sizes.append(vision.trunk.map_size(*vision.image_size))
    grid = source_ND.T.unflatten(1, sizes[0])[None]
    return F.interpolate(grid, size=sizes[1], mode="bilinear", align_corners=True)[0].flatten(1).T


__all__ = [
    "Slot",
    "Transplant",
    "cameras_of",
    "paired_cameras",
    "parts_of",
    "slots_of",
    "transplant",
]
