"""One trunk for the policies of several robots: which parameters become the same.

The rule is that of a transfer (`vla.models.transfer.transfer_weights`): what has the role of the
trunk, and what reads the instruction, is shared where names and shapes agree; heads, and what reads
states and actions, are each robot's. Positions go with their tokens: the image tokens of a camera
slot and the state share theirs, action tokens do not. Buffers (statistics, also those of batch
norm) belong to a robot's data and are never shared.

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

View = nn.Module | None
"""How a policy takes what is shared: `nn.Identity` as it is; None not at all."""


class Rows(nn.Module):
    """The rows of a table that one robot's tokens have."""

    index: Tensor

    def __init__(self, index: Sequence[int]) -> None:
        super().__init__()
        # not in checkpoints: it follows from the robots' layouts
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
    """Makes one trunk of those of policies that were built alike.

    It starts with the values of the first that has them.

    Returns what at least two of the policies share, by name. No module is shared, for modules know
    their robot's cameras and layout: parameters are tied one by one.
    """
    trunks = [_trunk(policy) for policy in policies]  # before anything is changed
    names = dict.fromkeys(name for trunk in trunks for name in trunk)
    shared = {}
    for name in names:
        owners = [number for number, trunk in enumerate(trunks) if name in trunk]
        own = [trunks[number][name] for number in owners]
        rows = [_row_places(policies[number], name, slots[number], number) for number in owners]
        common, views = _tied(name, own, rows)
        users = [pair for pair in zip(owners, views, strict=True) if pair[1] is not None]
        # what one robot alone has is its own, and stays under its own name
        if len(users) > 1:
            shared[name] = common
            for number, view in users:
                assert view is not None
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
    """The policy's parameters that robots may share, by name."""
    roles = policy.parameter_roles()
    shared = {}
    for name, parameter in policy.named_parameters():
        kind = roles.get(name, TRUNK).kind
        # robots name their cameras as they like: one camera's own encoder stays its robot's
        if kind & (RoleKind.TRUNK | RoleKind.LANGUAGE) and not kind & RoleKind.CAMERA_INPUT:
            shared[name] = parameter
    return shared


def _tied(
    name: str,
    own: Sequence[nn.Parameter],
    rows: Sequence[list[Hashable] | None],
) -> tuple[nn.Parameter, list[View]]:
    """One parameter out of those of the policies that have it, and how each of them takes it."""
    places = [mine for mine in rows if mine is not None]
    if len(places) < len(rows):
        return _whole(name, own)
    return _by_place(own, places)


def _row_places(policy: Policy, name: str, slots: Slots, number: int) -> list[Hashable] | None:
    """What each row of a parameter belongs to; None if it has no rows of tokens or cameras.

    Args:
        number: of the robot: places that contain it are its own.
    """
    owner, _, leaf = name.rpartition(".")
    module = policy.get_submodule(owner)
    if isinstance(module, VisionEncoder) and leaf == "camera_embedding":
        return [slots[camera] for camera in module.cameras]
    if not isinstance(module, TrajectoryTransformer) or leaf != "position":
        return None
    # What is said of actions means nothing to a robot of other actions; slots without content are
    # where they are said.
    own = set()
    for segment in module.layout.segments:
        if segment.name == "action" or not segment.content:
            own.add(segment.name)
    places: dict[int, Hashable] = {}
    for (step, segment_name, camera), rows in slots_of(policy, module).items():
        owner_of_row = number if segment_name in own else slots.get(camera or "")
        for place, row in enumerate(rows):
            # the number of tokens is part of the place: another number would be another grid
            places[row] = (step, segment_name, owner_of_row, len(rows), place)
    return [places[row] for row in range(len(places))]


def _by_place(
    own: Sequence[nn.Parameter], places: Sequence[Sequence[Hashable]]
) -> tuple[nn.Parameter, list[View]]:
    """A table of the policies' rows, those of one place once; and which of them each has."""
    rows: dict[Hashable, Tensor] = {}
    for parameter, mine in zip(own, places, strict=True):
        for place, row in zip(mine, parameter, strict=True):
            rows.setdefault(place, row)
    table = torch.stack(list(rows.values()))  # (M, ...)
    row_of = {place: row for row, place in enumerate(rows)}
    views: list[View] = []
    for mine in places:
        # a policy that has all rows in their order needs no indexing at each step
        whole = list(mine) == list(rows)
        views.append(nn.Identity() if whole else Rows([row_of[place] for place in mine]))
    return nn.Parameter(table), views


def _whole(name: str, own: Sequence[nn.Parameter]) -> tuple[nn.Parameter, list[View]]:
    """The parameter of the first policy, and how it fits each."""
    first = own[0]
    views: list[View] = []
    for parameter in own:
        if parameter.shape == first.shape:
            views.append(nn.Identity())
        elif name.endswith("map_position") and len(parameter) == len(first):
            # maps of other sizes (images of other sizes) still have corners in common
            views.append(Resized((parameter.shape[1], parameter.shape[2])))
        else:
            views.append(None)
    return first, views


def _put(policy: Policy, name: str, common: nn.Parameter, view: nn.Module) -> None:
    """Puts the shared parameter in the place of the policy's own."""
    owner, _, leaf = name.rpartition(".")
    module = policy.get_submodule(owner)
    setattr(module, leaf, common)
    if not isinstance(view, nn.Identity):
        # unsafe: what the view gives has another shape than the parameter
        parametrize.register_parametrization(module, leaf, view, unsafe=True)


def _copy_buffers(policies: Sequence[Policy]) -> None:
    """Buffers of the trunk start alike: the first policy's may be of pretraining."""
    first, *others = policies
    roles = first.parameter_roles()
    saved = first.state_dict()
    for name, source in first.named_buffers():
        # those of heads and states are fitted to each robot's data; others follow from the spec
        if name not in saved or RoleKind.TRUNK not in roles.get(name, TRUNK).kind:
            continue
        for policy in others:
            target = dict(policy.named_buffers()).get(name)
            if target is not None and target.shape == source.shape:
                target.copy_(source)


__all__ = ["Slots", "share_trunk", "tensor_of"]
