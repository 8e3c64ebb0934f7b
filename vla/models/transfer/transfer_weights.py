"""The tensors of a trained policy go into another policy, as far as they mean the same there.

Names and shapes pair the tensors; what a pair is worth is decided by its role
(`Policy.parameter_roles`). What gives or reads actions is for one set of actions, what reads the
state for one set of state dimensions, and statistics belong to data. Positions follow their tokens,
and what reads one camera follows that camera: with fewer cameras, another history or another map,
each row goes to the token that has its place.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from vla.models.policy import Policy
from vla.models.roles import TRUNK, Role, RoleKind, check_roles
from vla.models.transfer.cameras import cameras_of
from vla.models.transfer.meaning import changed_meanings, require_roles
from vla.models.transfer.positions import moved_rows


@dataclass
class WeightTransfer:
    """What became of the tensors of the new policy.

    Attributes:
        kept: taken over as they were; what reads a camera, from that of the camera in whose place
            it stands.
        adapted: name -> how they were taken over.
        reinitialised: name -> why they were not.
        unused: tensors of the old policy that the new one has no place for.
        shares: part of the old trunk (vision, transformer, ...) -> share of its parameters that was
            taken over.
        mismatch: the first trunk parameter that was not, in words.
    """

    kept: list[str] = field(default_factory=list)
    adapted: dict[str, str] = field(default_factory=dict)
    reinitialised: dict[str, str] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    shares: dict[str, float] = field(default_factory=dict)
    mismatch: str | None = None

    @property
    def share(self) -> float:
        """Mean over the trunk's parts: a large image trunk does not speak for all of them."""
        return sum(self.shares.values()) / max(len(self.shares), 1)


@torch.no_grad()
def copy_weights(
    old: Policy,
    new: Policy,
    *,
    cameras: Mapping[str, str],
    reinitialise: Collection[str] | None,
    keep_statistics: bool,
    same_robot: bool | None = None,
) -> WeightTransfer:
    """Copies into `new` what it can use of `old`.

    Args:
        cameras: new camera -> old camera.
        reinitialise: tensors that keep their initial values even if they fit; None for the rule in
            this module's docstring. Roles decide nothing about other tensors then, but for
            statistics, positions and cameras.
        keep_statistics: statistics (of states, and those that heads take from data) are taken over
            too; which are those of the same robot.
        same_robot: whether dimensions of equal names are the same; None: unless the names are made
            up.

    Raises:
        RoleError: a policy tells roles that cannot be; or the robots differ, and the role of a
            tensor is unknown.
    """
    old_roles = _checked_roles(old)
    new_roles = _checked_roles(new)
    changed: dict[RoleKind, str] = {}
    if reinitialise is None:
        same_robot = keep_statistics or same_robot
        changed = changed_meanings(old, new, same_robot=same_robot)
        require_roles(old, new, (old_roles, new_roles), changed, cameras)
    rules = _Rules(reinitialise, keep_statistics, changed)
    old_tensors = dict(old.state_dict())
    new_tensors = dict(new.state_dict())
    camera_sources: dict[str, str] = {}
    for new_camera, old_camera in cameras.items():
        here = _of_camera(new_tensors, new_roles, new_camera)
        there = _of_camera(old_tensors, old_roles, old_camera)
        # names differ with the cameras, so order pairs them; another number is another encoder
        if len(here) == len(there):
            camera_sources |= dict(zip(here, there, strict=True))
    transfer = WeightTransfer()
    used: set[str] = set()  # tensors of the old policy
    for name, tensor in new_tensors.items():
        # without a role only a policy for the same robot, or one with a list, comes here
        role = new_roles.get(name, TRUNK)
        source = name
        if RoleKind.CAMERA_INPUT in role.kind:
            source = camera_sources.get(name, "")
        reason = rules.reason_against(name, role)
        if reason is None and source not in old_tensors:
            reason = "is not in the checkpoint" if source else "its camera takes no other's place"
        if reason is not None:
            transfer.reinitialised[name] = reason
            continue
        values = old_tensors[source]
        how = None
        # rows are moved only where both policies say that they are the same kind of rows
        if old_roles.get(source) == role:
            moved = moved_rows(source, role, (values, tensor), (old, new), cameras)
            if moved is not None:
                values, how = moved
                # every row where it was: nothing worth telling
                if torch.equal(values, old_tensors[source]):
                    how = None
        if values.shape != tensor.shape:
            transfer.reinitialised[name] = (
                f"has shape {tuple(values.shape)} in the checkpoint, {tuple(tensor.shape)} here"
            )
            continue
        tensor.copy_(values)
        used.add(source)
        if how is None:
            transfer.kept.append(name)
        else:
            transfer.adapted[name] = how
    transfer.unused = _unused(old_roles, old_tensors, used, new_tensors)
    _measure(old, old_roles, used, transfer)
    return transfer


@dataclass(frozen=True)
class _Rules:
    """What is not taken over, whatever its name and shape; see `copy_weights`."""

    reinitialise: Collection[str] | None
    keep_statistics: bool
    changed: Mapping[RoleKind, str]

    def reason_against(self, name: str, role: Role) -> str | None:
        """Why a tensor of the new policy must not be taken from the old one; None if it may."""
        if RoleKind.STATISTICS in role.kind and not self.keep_statistics:
            return "is fitted to the new data"
        if self.reinitialise is not None and name in self.reinitialise:
            return "is in transfer.reinitialise"
        for kind, reason in self.changed.items():
            if kind in role.kind:
                return reason
        return None


def _checked_roles(policy: Policy) -> dict[str, Role]:
    roles = policy.parameter_roles()
    check_roles(policy, roles, cameras_of(policy))
    return roles


def _of_camera(
    tensors: Collection[str],
    roles: Mapping[str, Role],
    camera: str,
) -> list[str]:
    """The tensors that read one camera alone, in the order of the policy's state."""
    found = []
    for name in tensors:
        role = roles.get(name, TRUNK)
        if RoleKind.CAMERA_INPUT in role.kind and role.camera == camera:
            found.append(name)
    return found


def _unused(
    old_roles: Mapping[str, Role],
    old_tensors: Collection[str],
    used: Collection[str],
    new_tensors: Collection[str],
) -> list[str]:
    """The tensors of the old policy that the new one has no place for."""
    unused = []
    for name in old_tensors:
        # what reads a camera goes by the camera: a tensor of the same name may read another one
        of_a_camera = RoleKind.CAMERA_INPUT in old_roles.get(name, TRUNK).kind
        if name not in used and (of_a_camera or name not in new_tensors):
            unused.append(name)
    return unused


def _measure(
    old: Policy,
    roles: Mapping[str, Role],
    used: Collection[str],
    transfer: WeightTransfer,
) -> None:
    """Fills in how much of the old trunk was taken over; `used` are tensors of `old`."""
    trunk: dict[str, nn.Parameter] = {}
    for name, parameter in old.named_parameters():
        if RoleKind.TRUNK in roles.get(name, TRUNK).kind:
            trunk[name] = parameter
    sizes: dict[str, int] = {}
    taken: dict[str, int] = {}
    for name, parameter in trunk.items():
        # the policy's own attributes: vision, transformer, ...
        part = name.partition(".")[0]
        sizes[part] = sizes.get(part, 0) + parameter.numel()
        if name in used:
            taken[part] = taken.get(part, 0) + parameter.numel()
    for part, size in sizes.items():
        transfer.shares[part] = taken.get(part, 0) / max(size, 1)
    lost = [name for name in trunk if name not in used]
    if lost:
        shape = tuple(trunk[lost[0]].shape)
        no_place = f"of shape {shape} has no place in the new policy"
        transfer.mismatch = f"{lost[0]} {transfer.reinitialised.get(lost[0], no_place)}"


__all__ = ["WeightTransfer", "copy_weights"]
