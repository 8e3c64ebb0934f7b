"""What means something else when a policy changes its robot, and whether its roles show it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from vla.models.policy import Policy
from vla.models.roles import Role, RoleError, RoleKind
from vla.models.transfer.cameras import keeps_order
from vla.types import Batch
from vla.types.dimension_names import made_up_names

_STATE = (RoleKind.STATE_INPUT, RoleKind.STATE_OUTPUT)
_ACTIONS = (RoleKind.ACTION_OUTPUT, RoleKind.ACTION_INPUT)
_OF_UNKNOWN_ROLE = (RoleKind.STATE_INPUT, RoleKind.LANGUAGE, RoleKind.ACTION_INPUT)
"""What a tensor without a role might be for."""


def changed_meanings(old: Policy, new: Policy, *, same_robot: bool | None) -> dict[RoleKind, str]:
    """Kind of role -> why its tensors mean something else in the new policy, even if they fit.

    `same_robot`: what the user says: with True numbers are as good as names, with False equal
    names say nothing; None leaves it to the names.
    """
    reasons: dict[RoleKind, str] = {}
    state = _difference(
        old.spec.state_names, new.spec.state_names, same_robot, "reads another state"
    )
    if state is not None:
        reasons |= dict.fromkeys(_STATE, state)
    if old.language.name != new.language.name:
        reasons[RoleKind.LANGUAGE] = "reads another text encoder"
    other_tokenizer = old.config.option("tokenizer") != new.config.option("tokenizer")
    actions = _difference(
        old.spec.action_names, new.spec.action_names, same_robot, "is for other actions"
    )
    if actions is not None:
        # that the robot has other actions says more than that it has another tokenizer
        reasons |= dict.fromkeys(_ACTIONS, actions)
    elif old.config.option("head") != new.config.option("head"):
        reasons[RoleKind.ACTION_OUTPUT] = "is another head"
    if other_tokenizer:
        reasons = dict.fromkeys(_ACTIONS, "is for another tokenizer") | reasons
    return reasons


def require_roles(
    old: Policy,
    new: Policy,
    roles: tuple[Mapping[str, Role], Mapping[str, Role]],
    changed: Mapping[RoleKind, str],
    cameras: Mapping[str, str],
) -> None:
    """Raises RoleError if something changed and the policies do not tell which tensors it concerns.

    Args:
        roles: of the old policy, of the new one.
        changed: see `changed_meanings`.
        cameras: new camera -> old camera.
    """
    old_roles, new_roles = roles
    # another head alone concerns heads, which are known by their type
    what = [changed[kind] for kind in _OF_UNKNOWN_ROLE if kind in changed]
    if not keeps_order(old, new, cameras):
        pairs = ", ".join(f"{camera} from {source}" for camera, source in cameras.items())
        what.append(f"takes its cameras in another order ({pairs})")
    if not what:
        return
    # the new policy's: where its tensors come from is decided by what they are for there
    silent = [name for name in new.state_dict() if name not in new_roles]
    if silent:
        raise RoleError(
            f"init_from: the new policy {', '.join(what)}; but the role of {len(silent)} tensors "
            f"of {type(new).__name__} is unknown (first {silent[0]!r}), so that they would be "
            f"taken over as they are. {_remedy(new)}"
        )
    gives_actions = any(RoleKind.ACTION_OUTPUT in role.kind for role in new_roles.values())
    if RoleKind.ACTION_INPUT in changed and not gives_actions:
        raise RoleError(
            f"init_from: the new policy {changed[RoleKind.ACTION_INPUT]}; but no tensor of "
            f"{type(new).__name__} has the role ACTION_OUTPUT. {_remedy(new)}"
        )
    # A role that is missing can be seen, one that is wrong cannot; but where nothing at all is said
    # to read the state, the policy can be asked. The old one: a new one may not react to anything.
    reads_state = any(RoleKind.STATE_INPUT in role.kind for role in old_roles.values())
    if RoleKind.STATE_INPUT in changed and not reads_state and depends_on_state(old):
        raise RoleError(
            f"init_from: the new policy {changed[RoleKind.STATE_INPUT]}; but no tensor of "
            f"{type(old).__name__} has the role STATE_INPUT, though its actions depend on the "
            f"state. {_remedy(old)}"
        )


@torch.no_grad()
def depends_on_state(policy: Policy) -> bool:
    """Whether the loss of one window of noise changes with the state; in evaluation mode."""
    if not policy.spec.state_dim or policy.robot_names:
        return False
    batch = policy.spec.fake_batch(1, policy.history, policy.chunk).to(policy.device)
    # a text that is known already: the encoder of another one might have to be fetched
    text = next(iter(policy.language.cached()), batch.instruction[0])
    batch = dataclasses.replace(batch, instruction=[text])
    other = dataclasses.replace(batch, state=batch.state + 1)
    return not torch.equal(_loss(policy, batch), _loss(policy, other))


def _loss(policy: Policy, batch: Batch) -> Tensor:
    # some heads draw noise for their loss: each call draws the same, and nobody else notices
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        loss: Tensor = policy(batch).actions.loss(batch.actions, batch.action_mask)
    return loss


def _difference(
    old: Sequence[str],
    new: Sequence[str],
    same_robot: bool | None,
    reason: str,
) -> str | None:
    """Why dimensions of these names are not the same; None if they are."""
    if tuple(old) != tuple(new):
        return reason
    if same_robot is False:
        return f"{reason} (transfer.same_robot: false)"
    made_up = made_up_names(new)
    if made_up and same_robot is None:
        return (
            f"{reason}, for all that is known: {made_up[0]!r} was made up to number a dimension "
            "and names no robot (if it is the same robot: transfer.same_robot=true)"
        )
    return None


def _remedy(policy: Policy) -> str:
    return (
        f"Define {type(policy).__name__}.parameter_roles (see vla.models.roles), or name in "
        "transfer.reinitialise what must not be taken over"
    )


__all__ = ["changed_meanings", "depends_on_state", "require_roles"]
