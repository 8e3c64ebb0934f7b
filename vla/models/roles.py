"""What each parameter and buffer of a policy is for: transfers decide by it, not by names.

`Policy.parameter_roles` tells the roles. What the modules of this package hold is known by their
type: heads, `VisionEncoder`, `TrajectoryTransformer`, `KeyframeHead`, `ActionVocabulary`. A policy
adds what only it can know:

    def parameter_roles(self) -> dict[str, Role]:
        named = {"state_layer": STATE_INPUT, "wrist": camera_input("wrist"), "gru": TRUNK}
        return super().parameter_roles() | roles_of(self, named)

C cameras, N tokens of a sequence, D width, h and w size of a map.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import nn

from vla.common.errors import UserError
from vla.common.names import did_you_mean
from vla.models.heads.base import Head
from vla.models.layers.action_vocabulary import ActionVocabulary
from vla.models.layers.vision_encoder import KeyframeHead, VisionEncoder
from vla.models.trajectory_transformer import TrajectoryTransformer


class RoleError(UserError):
    """A policy tells roles that cannot be, or too few of them for a transfer."""


class RoleKind(enum.Flag):
    """What a tensor reads, gives or belongs to; a tensor may do several of these at once."""

    TRUNK = enum.auto()
    """Means the same for every robot; counts when a transfer asks how much of the policy fits."""
    TOKEN_POSITIONS = enum.auto()
    """(N, D), a row for each token of a `TrajectoryTransformer`: rows go with their tokens."""
    MAP_POSITIONS = enum.auto()
    """(D, h, w), a vector for each place of an image: interpolated for images of another size."""
    CAMERA_ROWS = enum.auto()
    """(C, ...), a row for each of `Policy.cameras`: rows go with their cameras."""
    CAMERA_INPUT = enum.auto()
    """Reads the images of one camera alone, which `Role.camera` names."""
    STATE_INPUT = enum.auto()
    """Reads the robot's state."""
    STATE_OUTPUT = enum.auto()
    """Predicts states."""
    ACTION_INPUT = enum.auto()
    """Reads past actions."""
    ACTION_OUTPUT = enum.auto()
    """Gives actions."""
    LANGUAGE = enum.auto()
    """Reads the vectors of a text encoder."""
    STATISTICS = enum.auto()
    """Is fitted to data, such as the mean of the states."""


@dataclass(frozen=True)
class Role:
    """What one tensor is for.

    Attributes:
        kind: one or several kinds.
        camera: the camera of a `CAMERA_INPUT`; None for the other kinds.
    """

    kind: RoleKind
    camera: str | None = None

    def __or__(self, other: Role) -> Role:
        """The role of a tensor that is both, such as a layer that reads state and instruction."""
        return Role(self.kind | other.kind, self.camera or other.camera)


TRUNK = Role(RoleKind.TRUNK)
TOKEN_POSITIONS = Role(RoleKind.TRUNK | RoleKind.TOKEN_POSITIONS)
MAP_POSITIONS = Role(RoleKind.TRUNK | RoleKind.MAP_POSITIONS)
CAMERA_ROWS = Role(RoleKind.TRUNK | RoleKind.CAMERA_ROWS)
STATE_INPUT = Role(RoleKind.STATE_INPUT)
STATE_OUTPUT = Role(RoleKind.STATE_OUTPUT)
ACTION_INPUT = Role(RoleKind.ACTION_INPUT)
ACTION_OUTPUT = Role(RoleKind.ACTION_OUTPUT)
LANGUAGE = Role(RoleKind.LANGUAGE)
STATISTICS = Role(RoleKind.STATISTICS)


def camera_input(camera: str) -> Role:
    """The role of what reads the images of `camera` alone."""
    return Role(RoleKind.TRUNK | RoleKind.CAMERA_INPUT, camera)


@runtime_checkable
class TellsRoles(Protocol):
    """A module that tells the roles of its own tensors: a policy, or a part of one."""

    def parameter_roles(self) -> dict[str, Role]:
        """Name of a parameter or persistent buffer, as in `state_dict` -> its role."""


def roles_of(module: nn.Module, named: Mapping[str, Role]) -> dict[str, Role]:
    """The roles of the tensors of `module`, given by the names of sub-modules or of single tensors.

    Args:
        named: dotted name -> role of every tensor under that name; the longest name that fits
            counts.

    Raises:
        RoleError: a name that holds no tensor.
    """
    roles: dict[str, Role] = {}
    used: set[str] = set()
    tensors = list(module.state_dict())
    for tensor in tensors:
        owners = [name for name in named if _is_under(tensor, name)]
        used.update(owners)
        if owners:
            roles[tensor] = named[max(owners, key=len)]
    for name in named:
        # callers leave out optional parts that are absent: else misspelled names went unnoticed
        if name not in used:
            raise RoleError(
                f"{type(module).__name__}.parameter_roles: nothing is called {name!r}"
                f"{did_you_mean(name, _all_prefixes(tensors))}"
            )
    return roles


def roles_by_type(policy: nn.Module) -> dict[str, Role]:
    """The roles of what stands in the modules whose type tells it; nothing about other tensors."""
    roles: dict[str, Role] = {}
    for prefix, module in policy.named_modules():
        if module is policy:
            continue  # it would ask the policy for its roles, which asks here
        for name, role in _roles_within(module).items():
            # parents come first: a policy inside another one decides for all that it is built of
            roles.setdefault(f"{prefix}.{name}", role)
    return roles


def check_roles(
    policy: nn.Module,
    roles: Mapping[str, Role],
    cameras: Sequence[str],
) -> None:
    """Raises RoleError if `roles` are none of `policy`, which looks through `cameras`."""
    tensors = policy.state_dict()
    of_heads = {
        name for name, role in roles_by_type(policy).items() if RoleKind.ACTION_OUTPUT in role.kind
    }
    where = f"{type(policy).__name__}.parameter_roles"
    for name, role in roles.items():
        if name not in tensors:
            raise RoleError(
                f"{where}: no parameter or buffer {name!r}{did_you_mean(name, tensors)}"
            )
        if not isinstance(role, Role):
            raise RoleError(f"{where}: {name} has {role!r}, expected a vla.models.roles.Role")
        # cameras are paired by these names: one that does not exist would be paired with nothing
        if RoleKind.CAMERA_INPUT in role.kind and role.camera not in cameras:
            raise RoleError(
                f"{where}: {name} reads camera {role.camera!r}, the policy looks through: "
                f"{', '.join(cameras) or 'none'}; set Policy.cameras, or correct the role"
            )
        if RoleKind.CAMERA_ROWS in role.kind and len(tensors[name]) != len(cameras):
            raise RoleError(
                f"{where}: {name} has {len(tensors[name])} rows for the {len(cameras)} cameras"
            )
        if RoleKind.TOKEN_POSITIONS in role.kind and not _positions_tokens(policy, name):
            raise RoleError(
                f"{where}: {name} has TOKEN_POSITIONS, which is for `position` of a "
                "TrajectoryTransformer alone; use TRUNK"
            )
        # the type of a head says what it gives; who says otherwise is mistaken
        if name in of_heads and RoleKind.ACTION_OUTPUT not in role.kind:
            raise RoleError(f"{where}: {name} is of an action head, expected ACTION_OUTPUT")


def _roles_within(module: nn.Module) -> dict[str, Role]:
    """The roles of the tensors of `module`, if its type tells them."""
    if isinstance(module, TellsRoles):
        return module.parameter_roles()
    if isinstance(module, Head):
        return _head_roles(module)
    roles: dict[str, Role] = {}
    special: dict[str, Role] = {}
    if isinstance(module, VisionEncoder):
        # one encoder for all cameras: its weights are the trunk's, not a camera's
        roles = _all_as(module, TRUNK) | roles_of(module, {"condition": LANGUAGE})
        special = {"map_position": MAP_POSITIONS, "camera_embedding": CAMERA_ROWS}
    elif isinstance(module, TrajectoryTransformer):
        roles = _all_as(module, TRUNK)
        special = {"position": TOKEN_POSITIONS}
    elif isinstance(module, KeyframeHead):
        roles = _all_as(module, STATE_OUTPUT)
    elif isinstance(module, ActionVocabulary):
        # its rows of the embedding matrix read actions too, and go with the others
        roles = _all_as(module, ACTION_OUTPUT)
    # special ones are optional, and have another name where several robots share them
    return roles | {name: role for name, role in special.items() if name in roles}


def _head_roles(head: Head) -> dict[str, Role]:
    # the buffers of a head are what it takes from data, such as the spread of the actions
    buffers = {name for name, _ in head.named_buffers()}
    return {name: STATISTICS if name in buffers else ACTION_OUTPUT for name in head.state_dict()}


def _all_as(module: nn.Module, role: Role) -> dict[str, Role]:
    return dict.fromkeys(module.state_dict(), role)


def _is_under(tensor: str, name: str) -> bool:
    return tensor == name or tensor.startswith(f"{name}.")


def _all_prefixes(tensors: Sequence[str]) -> list[str]:
    """Names of all modules and tensors, for the nearest one to a wrong name."""
    found: dict[str, None] = {}
    for tensor in tensors:
        parts = tensor.split(".")
        for length in range(1, len(parts) + 1):
            found[".".join(parts[:length])] = None
    return list(found)


def _positions_tokens(policy: nn.Module, name: str) -> bool:
    owner, _, leaf = name.rpartition(".")
    return leaf == "position" and isinstance(policy.get_submodule(owner), TrajectoryTransformer)


__all__ = [
    "ACTION_INPUT",
    "ACTION_OUTPUT",
    "CAMERA_ROWS",
    "LANGUAGE",
    "MAP_POSITIONS",
    "STATE_INPUT",
    "STATE_OUTPUT",
    "STATISTICS",
    "TOKEN_POSITIONS",
    "TRUNK",
    "Role",
    "RoleError",
    "RoleKind",
    "TellsRoles",
    "camera_input",
    "check_roles",
    "roles_by_type",
    "roles_of",
]
