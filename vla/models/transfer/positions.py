"""Tensors whose rows belong to tokens or cameras: every row goes where its token or camera goes.

T steps, N tokens of the longest window, n tokens of one camera at one step, D width, C cameras, h
and w size of a map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from vla.models.policy import Policy
from vla.models.roles import Role, RoleKind
from vla.models.trajectory_transformer import TrajectoryTransformer
from vla.models.transfer.cameras import cameras_of, vision_encoder_of

Slot = tuple[int | None, str, str | None]
"""Of a position: steps before the last (None for the prefix), segment, camera (None for other
segments)."""


def moved_rows(
    name: str,
    role: Role,
    tensors: tuple[Tensor, Tensor],
    policies: tuple[Policy, Policy],
    cameras: Mapping[str, str],
) -> tuple[Tensor, str] | None:
    """The values of a tensor whose rows belong to tokens or cameras, and how they came about.

    Args:
        name: of the tensor, in both policies.
        role: in both policies.
        tensors: that of the old policy, that of the new one.
        policies: the old one, the new one.
        cameras: new camera -> old camera.

    Returns None for tensors of other roles, and if there is nothing to take.
    """
    old_tensor, new_tensor = tensors
    old, new = policies
    if RoleKind.MAP_POSITIONS in role.kind:
        return _resized(old_tensor, new_tensor)
    if RoleKind.CAMERA_ROWS in role.kind:
        return _camera_rows(old_tensor, new_tensor, cameras_of(old), cameras_of(new), cameras)
    if RoleKind.TOKEN_POSITIONS in role.kind:
        old_trunk = _trunk_of(old, name)
        new_trunk = _trunk_of(new, name)
        if old_trunk.positions == new_trunk.positions and old_trunk.width == new_trunk.width:
            return _token_positions(old, new, old_trunk, new_trunk, cameras)
    return None


def slots_of(policy: Policy, trunk: TrajectoryTransformer) -> dict[Slot, list[int]]:
    """The rows of the trunk's positions by what stands there."""
    # other kinds of positions have rows for one step, which all steps share
    steps = trunk.steps if trunk.positions == "absolute" else 1
    places: list[tuple[int | None, str, int]] = []
    for segment in trunk.layout.prefix:
        places.append((None, segment.name, segment.tokens))
    for t in range(steps):
        for segment in trunk.layout.step:
            places.append((steps - 1 - t, segment.name, segment.tokens))
    slots: dict[Slot, list[int]] = {}
    row = 0
    for step, segment_name, tokens in places:
        # an image segment holds the tokens of all cameras side by side
        cameras = cameras_of(policy) if segment_name == "image" else (None,)
        per_camera = tokens // len(cameras)
        for camera in cameras:
            slots[step, segment_name, camera] = list(range(row, row + per_camera))
            row += per_camera
    return slots


def _trunk_of(policy: Policy, name: str) -> TrajectoryTransformer:
    module: nn.Module = policy.get_submodule(name.rpartition(".")[0])
    assert isinstance(module, TrajectoryTransformer)  # `check_roles` sees to it
    return module


def _resized(old_Dhw: Tensor, new_Dhw: Tensor) -> tuple[Tensor, str] | None:
    """Positions in a map of another size."""
    if len(old_Dhw) != len(new_Dhw):
        return None
    if old_Dhw.shape == new_Dhw.shape:
        return old_Dhw, "as it was"
    size = (new_Dhw.shape[1], new_Dhw.shape[2])
    # corners on corners: the border of an image stays its border
    values_1Dhw = F.interpolate(
        old_Dhw[None],
        size=size,
        mode="bilinear",
        align_corners=True,
    )
    return values_1Dhw[0], f"interpolated from {tuple(old_Dhw.shape[1:])} to {size}"


def _camera_rows(
    old_rows: Tensor,
    new_rows: Tensor,
    old_cameras: Sequence[str],
    new_cameras: Sequence[str],
    cameras: Mapping[str, str],
) -> tuple[Tensor, str] | None:
    """Rows (C, ...): each new camera takes that of its old camera; without one it keeps its own."""
    if old_rows.shape[1:] != new_rows.shape[1:]:
        return None
    values = new_rows.clone()
    taken = []
    for row, camera in enumerate(new_cameras):
        source = cameras.get(camera)
        if source in old_cameras:
            values[row] = old_rows[old_cameras.index(source)]
            taken.append(f"{camera} from {source}")
    return (values, ", ".join(taken)) if taken else None


def _token_positions(
    old: Policy,
    new: Policy,
    old_trunk: TrajectoryTransformer,
    new_trunk: TrajectoryTransformer,
    cameras: Mapping[str, str],
) -> tuple[Tensor, str]:
    """Every token takes the position that its like had.

    Steps that are older than the old policy knew take those of its oldest.
    """
    values_ND = new_trunk.position.clone()
    old_slots = slots_of(old, old_trunk)
    steps = [step for step, _, _ in old_slots if step is not None]
    oldest = max(steps, default=0)
    taken = 0
    for slot, rows in slots_of(new, new_trunk).items():
        step, segment, camera = slot
        # steps count back from the present, so that histories of other lengths agree there
        old_step = None if step is None else min(step, oldest)
        # a camera without a partner: no slot has the camera ""
        old_camera = None if camera is None else cameras.get(camera, "")
        old_rows = old_slots.get((old_step, segment, old_camera))
        if old_rows is None:
            continue
        source_nD = old_trunk.position[old_rows]
        if segment == "image" and len(old_rows) != len(rows):
            source_nD = _regridded(source_nD, _grid_of(old), _grid_of(new))
        # fewer tokens than before take the first ones; more keep their own beyond
        count = min(len(source_nD), len(rows))
        values_ND[rows[:count]] = source_nD[:count]
        taken += count
    return values_ND, f"{taken} of {len(values_ND)} rows by their tokens' places"


def _grid_of(policy: Policy) -> tuple[int, int] | None:
    """Rows and columns of the map whose places are a camera's tokens; None for learned tokens."""
    encoder = vision_encoder_of(policy)
    if encoder is None or encoder.config.token_learner:
        return None
    return encoder.trunk.map_size(*encoder.image_size)


def _regridded(
    source_nD: Tensor,
    old_grid: tuple[int, int] | None,
    new_grid: tuple[int, int] | None,
) -> Tensor:
    """Positions of a camera's tokens for another map; as they are for learned tokens."""
    if old_grid is None or new_grid is None:
        return source_nD
    grid_1Dhw = source_nD.T.unflatten(1, old_grid)[None]
    resized_1Dhw = F.interpolate(
        grid_1Dhw,
        size=new_grid,
        mode="bilinear",
        align_corners=True,
    )
    return resized_1Dhw[0].flatten(1).T


__all__ = ["Slot", "moved_rows", "slots_of"]
