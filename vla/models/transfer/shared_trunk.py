"""One trunk for the policies of several robots: which of their parameters become the same, and which stay a robot's own.

The rule is that of a transfer (`vla.models.transfer.transfer_weights`): what has the role of the trunk, and what reads
the instruction, is shared where names and shapes agree; heads, and what reads states and actions, are each robot's.
Positions go with their tokens: the image tokens of a camera slot and the state share theirs, action tokens do not. Buffers (statistics, also those
of batch norm) belong to a robot's data and are never shared.

D width, N rows of a robot, M rows of all robots, C cameras, h and w size of the map.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from vla.models.layers.vision_encoder import VisionEncoder
from vla.models.policy import Policy
from vla.models.roles import TRUNK, RoleKind
from vla.models.trajectory_transformer import TrajectoryTransformer
from vla.models.transfer.positions import slots_of

Slots = Mapping[str, str]
"""Camera of a robot -> the camera slot of the trunk that it stands in."""


class Rows(nn.Module):
    """The rows of a table that one robot's tokens have."""

    index: Tensor

    def __init__(self, index: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("index", torch.tensor(index), persistent=False)

    def forward(self, table: Float[Tensor, "M ..."]) -> Float[Tensor, "N ..."]:
        return table.index_select(0, self.index)


class Resized(nn.Module):
    """Positions in a map, for images of another size: interpolated, corners on corners."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, position: Float[Tensor, "D h w"]) -> Float[Tensor, "D H W"]:
        return F.interpolate(position[None], size=self.size, mode="bilinear", align_corners=True)[0]


@torch.no_grad()
def share_trunk(policies: Sequence[Policy], slots: Sequence[Slots]) -> dict[str, nn.Parameter]:
    """Makes one trunk of those of policies that were built alike; at the start it has the values of the first that has them.

    -> what at least two of them share, by name.
    """
    trunks = [_trunk(policy) for policy in policies]  # before anything is changed
    shared = {}
    for name in dict.fromkeys(name for trunk in trunks for name in trunk):
        owners = [number for number, trunk in enumerate(trunks) if name in trunk]
        own = [trunks[number][name] for number in owners]
        places = [_places(policies[number], name, slots[number], number) for number in owners]
        common, views = (
            _whole(name, own) if None in places else _by_place(own, [mine or [] for mine in places])
        )
        users = [
            (number, view) for number, view in zip(owners, views, strict=True) if view is not None
        ]
        if len(users) > 1:
            shared[name] = common
            for number, view in users:
                _put(policies[number], name, common, view)
    _copy_buffers(policies)
    return shared


def tensor_of(policy: Policy, name: str) -> Tensor:
    """What the policy has under that name, also where it is computed from what is shared."""
    owner, _, leaf = name.rpartition(".")
    found = getattr(policy.get_submodule(owner), leaf)
    assert isinstance(found, Tensor)
    return found


def _trunk(policy: Policy) -> dict[str, nn.Parameter]:
    roles = policy.parameter_roles()
    shared = {}
    for name, parameter in policy.named_parameters():
        kind = roles.get(name, TRUNK).kind
        # robots name their cameras as they like: one camera's own encoder stays its robot's
        if kind & (RoleKind.TRUNK | RoleKind.LANGUAGE) and not kind & RoleKind.CAMERA_INPUT:
            shared[name] = parameter
    return shared


def _places(policy: Policy, name: str, slots: Slots, number: int) -> list[Hashable] | None:
    """What each row of a parameter belongs to; None where it is not made of rows that belong to tokens or cameras."""
    owner, _, leaf = name.rpartition(".")
    module = policy.get_submodule(owner)
    if isinstance(module, VisionEncoder) and leaf == "camera_embedding":
        return [slots[camera] for camera in module.cameras]
    if not isinstance(module, TrajectoryTransformer) or leaf != "position":
        return None
    # what is said of actions means nothing to a robot of other actions; slots without content are where they are said
    own = {
        segment.name
        for segment in module.layout.segments
        if segment.name == "action" or not segment.content
    }
    places: dict[int, Hashable] = {}
    for (step, segment, camera), rows in slots_of(policy, module).items():
        whose = number if segment in own else slots.get(camera or "")
        # as many tokens: others would be another grid
        places |= {row: (step, segment, whose, len(rows), i) for i, row in enumerate(rows)}
    return [places[row] for row in range(len(places))]


View = nn.Module | None
"""How a policy takes what is shared: `nn.Identity` as it is; None not at all."""


def _by_place(
    own: Sequence[nn.Parameter], places: Sequence[Sequence[Hashable]]
) -> tuple[nn.Parameter, list[View]]:
    """A table of the rows of all policies, those of the same place once; and which of them each policy has."""
    rows: dict[Hashable, Tensor] = {}
    for parameter, mine in zip(own, places, strict=True):
        for place, row in zip(mine, parameter, strict=True):
            rows.setdefault(place, row)
    number = {place: i for i, place in enumerate(rows)}
    views: list[View] = [
        nn.Identity() if list(mine) == list(rows) else Rows([number[p] for p in mine])
        for mine in places
    ]
    return nn.Parameter(torch.stack(list(rows.values()))), views


def _whole(name: str, own: Sequence[nn.Parameter]) -> tuple[nn.Parameter, list[View]]:
    """The parameter of the first policy, and how it fits each."""
    first, views = own[0], list[View]()
    for parameter in own:
        if parameter.shape == first.shape:
            views.append(nn.Identity())
        elif name.endswith("map_position") and len(parameter) == len(first):
            views.append(Resized((parameter.shape[1], parameter.shape[2])))
        else:
            views.append(None)
    return first, views


def _put(policy: Policy, name: str, common: nn.Parameter, view: nn.Module) -> None:
    owner, _, leaf = name.rpartition(".")
    module = policy.get_submodule(owner)
    setattr(module, leaf, common)
    if not isinstance(view, nn.Identity):
        parametrize.register_parametrization(
            module, leaf, view, unsafe=True
        )  # unsafe: its shape changes


def _copy_buffers(policies: Sequence[Policy]) -> None:
    """Buffers of the trunk start alike: the first policy's may be of pretraining."""
    roles, kept = policies[0].parameter_roles(), policies[0].state_dict()
    for name, source in policies[0].named_buffers():
        of_trunk = RoleKind.TRUNK in roles.get(name, TRUNK).kind
        for policy in policies[1:] if name in kept and of_trunk else ():
            target = dict(policy.named_buffers()).get(name)
            if target is not None and target.shape == source.shape:
                target.copy_(source)


__all__ = ["Slots", "share_trunk", "tensor_of"]
