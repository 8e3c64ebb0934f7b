"""Tells the author of a policy what is wrong with it, before a training or a transfer finds out.

B windows or robots, T steps, K actions per chunk, A action dimensions, F features.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from vla.common.errors import UserError
from vla.models.policy import Policy
from vla.models.roles import ACTION_OUTPUT, STATE_INPUT, Role, RoleError, check_roles
from vla.models.transfer.cameras import cameras_of
from vla.models.transfer.meaning import depends_on_state
from vla.types import Batch, Observation, PolicyOutput, resized

B = 2
TOLERANCE = 1e-4
"""Absolute and relative: sums of a batch of one step are rounded otherwise than those of a
window."""


ROUNDING = 0.25
"""What rounding an image to 8 bits may change of the features, in parts of what another does."""


class PolicyContractError(UserError):
    """A policy breaks the contract of `Policy`. `problems` holds one line for each fault, with its
    remedy."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


@torch.no_grad()
def check_policy(policy: Policy, *, steps: int | None = None) -> None:
    """Raises PolicyContractError with a line for everything that breaks the contract of `Policy`.

    Control must say what the forward pass says of the last `history` steps, also of robots that
    were apart in between; features must see no action of their step and nothing later; images
    held at the size that the policy declares must mean the same to it; every tensor must have its
    role.

    Args:
        policy: for one robot; fitted or not. It is in the mode that it was in afterwards.
        steps: control steps to compare; None for twice the history: a policy that remembers more
            than its windows hold would agree with them for the first `history` steps. For policies
            that look back over a whole episode by design, such as a Decision Transformer with
            `window`, give the history.
    """
    # dropout would make two passes differ; `eval` and `train` are restored by hand, since `train()`
    # makes a policy forget where it was loaded from
    was_training = policy.training
    policy.eval()
    try:
        episode = _episode(policy, steps or 2 * policy.history)
        # later checks need what earlier ones have looked at: the first faulty group ends it
        for group in (
            _forward(policy, episode),
            _causality(policy, episode),
            _control(policy, episode),
            _image_sizes(policy, episode),
            _roles(policy),
        ):
            if problems := list(group):
                raise PolicyContractError(problems)
    finally:
        if was_training:
            policy.train()


def _episode(policy: Policy, steps: int) -> Batch:
    """Two solved episodes of noise whose rewards sum to 1: return and success are the same."""
    batch = policy.spec.fake_batch(B, steps, policy.chunk)
    rewards_BT = batch.rewards / batch.rewards.sum(1, keepdim=True)
    known = list(policy.language.cached())
    # texts that are known already: the encoder of others might have to be fetched
    texts = batch.instruction
    if known:
        texts = [known[row % len(known)] for row in range(B)]
    episode = dataclasses.replace(
        batch,
        instruction=texts,
        rewards=rewards_BT,
        returns_to_go=rewards_BT.flip(1).cumsum(1).flip(1),
        success=torch.ones_like(batch.success),
    )
    return episode.to(policy.device)


def _observation(episode: Batch, t: int) -> Observation:
    """What the robots see at step t, with the reward of the step before."""
    reward_B = torch.zeros_like(episode.rewards[:, 0])
    if t > 0:
        reward_B = episode.rewards[:, t - 1]
    return dataclasses.replace(
        episode.observation(t),
        reward=reward_B,
        target_return=episode.returns_to_go[:, 0],
    )


def _forward(policy: Policy, episode: Batch) -> Iterator[str]:
    T = policy.history
    batch = episode.steps(0, T)
    output = policy(batch)
    if not isinstance(output, PolicyOutput):
        yield f"forward: returns {type(output).__name__}; return a vla.types.PolicyOutput"
        return
    K = policy.chunk
    A = policy.spec.action_dim
    shapes = {
        "features": (output.features, (B, T, policy.feature_dim)),
        "actions.mode()": (output.actions.mode(), (B, T, K, A)),
        "actions.loss(...)": (output.actions.loss(batch.actions, batch.action_mask), (B, T)),
    }
    for name, (tensor, expected) in shapes.items():
        if tuple(tensor.shape) != expected:
            yield f"forward: {name} has shape {tuple(tensor.shape)}; expected {expected}"
        elif not torch.isfinite(tensor).all():
            yield f"forward: {name} holds NaN or infinity"


def _causality(policy: Policy, episode: Batch) -> Iterator[str]:
    """Critics take the action of a step beside its features: these must not know it."""
    batch = episode.steps(0, policy.history)
    features_BTF = policy(batch).features
    # the actions of the other robot: valid ones, whatever the tokenizer
    actions = batch.actions.clone()
    actions[:, -1] = batch.actions[:, -1].flip(0)
    seen = policy(dataclasses.replace(batch, actions=actions)).features
    if not _close(seen, features_BTF):
        yield (
            "forward: features of a step change with the actions of that step; read them where "
            "these have not been seen"
        )
    if policy.history == 1:
        return
    state = batch.state.clone()
    state[:, -1] += 1
    images = {camera: image.clone() for camera, image in batch.images.items()}
    for image in images.values():
        image[:, -1] = 255 - image[:, -1]
    later = policy(dataclasses.replace(batch, state=state, images=images)).features
    if not _close(later[:, :-1], features_BTF[:, :-1]):
        yield "forward: features of a step change with what is seen later; mask later steps"


def _control(policy: Policy, episode: Batch) -> Iterator[str]:
    memory: Any = None
    steps = episode.state.shape[1]
    for t in range(steps):
        observation = _observation(episode, t)
        before = memory
        output, memory = policy.step(observation, before)
        first = max(0, t + 1 - policy.history)
        # a window that ends where control stands, and is no longer than those of training
        window = policy(episode.steps(first, t + 1))
        remembers = "remembers too little" if t < policy.history else "does not forget older steps"
        for name, found, expected in (
            ("features", output.features, window.features[:, -1:]),
            ("actions", output.actions.mode(), window.actions.mode()[:, -1:]),
        ):
            if found.shape != expected.shape or not _close(found, expected):
                yield (
                    f"step: at step {t + 1} the {name} are not those of forward over the last "
                    f"{t + 1 - first} steps (history {policy.history}): the memory {remembers}, or "
                    "holds something else than windows do"
                )
                return
        again, _ = policy.step(observation, before)
        if not _close(again.features, output.features):
            yield (
                "step: the same memory gives other features the second time; never change it in "
                "place"
            )
            return
        memory = policy.remember(memory, episode.actions[:, t])
        if memory is None or memory.batch_size != B:
            yield f"step: the memory's batch_size is not the number of robots, {B}"
            return
        # robots that drop out and join again: each must be what it was
        apart = [memory.select([1]), memory.select([0])]
        memory = type(memory).stack(apart).select([1, 0])
    actions, _ = policy.act(_observation(episode, 0))
    low_A = policy.action_low.cpu()
    high_A = policy.action_high.cpu()
    within = (actions >= low_A) & (actions <= high_A)
    if not bool(within.all()):
        yield "act: actions lie outside of the spec's limits"


def _image_sizes(policy: Policy, episode: Batch) -> Iterator[str]:
    """Training data are held at these sizes, while control gives images of the spec's."""
    batch = episode.steps(0, policy.history)
    features_BTF = policy(batch).features
    for camera, size in policy.image_sizes.items():
        image = batch.images[camera]
        if not size.shrinks(image.shape[2:4]):
            continue
        held = policy(_with_image(batch, camera, resized(image, size))).features
        other = policy(_with_image(batch, camera, image.flip(0))).features
        # what rounding to 8 bits changes has no scale of its own; another image's has that
        changed = (held - features_BTF).abs().mean()
        if changed > ROUNDING * (other - features_BTF).abs().mean():
            yield (
                f"image_sizes: an image of {camera!r} that is held at {size} means something else "
                "than the whole one; declare the size and the kernel with which the policy resizes "
                "before all else, or leave the camera out"
            )


def _with_image(batch: Batch, camera: str, image: Tensor) -> Batch:
    return dataclasses.replace(batch, images={**batch.images, camera: image})


def _roles(policy: Policy) -> Iterator[str]:
    if policy.unwrapped is not policy:
        return  # what is carried over is the policy inside
    roles = policy.parameter_roles()
    try:
        check_roles(policy, roles, cameras_of(policy))
    except RoleError as error:
        yield str(error)
        return
    silent = [name for name in policy.state_dict() if name not in roles]
    if silent:
        yield (
            f"parameter_roles: tells nothing of {', '.join(silent[:8])}"
            f"{' ...' if len(silent) > 8 else ''}; without it the policy cannot be carried over to "
            "another robot (see vla.models.roles)"
        )
        return
    # If the state goes through these tensors alone, then with zeros in their place it does not
    # matter. What else reads it is found out.
    with _zeroed(policy, roles, STATE_INPUT):
        if depends_on_state(policy):
            yield (
                "parameter_roles: with all tensors of the role STATE_INPUT at 0 the actions still "
                "depend on the state; give that role to all that the state goes through first"
            )
    # in the same way: without what gives them all actions are alike
    with _zeroed(policy, roles, ACTION_OUTPUT):
        modes_BTKA = policy(_episode(policy, policy.history)).actions.mode()
        if not _close(modes_BTKA, modes_BTKA[:1, :1].expand_as(modes_BTKA)):
            yield (
                "parameter_roles: with all tensors of the role ACTION_OUTPUT at 0 the actions "
                "still depend on what is seen; give that role to what actions come from last"
            )


@contextlib.contextmanager
def _zeroed(policy: Policy, roles: dict[str, Role], role: Role) -> Iterator[None]:
    """The policy with every tensor of that role at 0, and afterwards as it was."""
    state = policy.state_dict()
    kept = {}
    for name, given in roles.items():
        if given.kind & role.kind:
            kept[name] = state[name].clone()
    try:
        for name in kept:
            state[name].zero_()
        yield
    finally:
        for name, values in kept.items():
            state[name].copy_(values)


def _close(a: Tensor, b: Tensor) -> bool:
    return bool(torch.allclose(a, b, atol=TOLERANCE, rtol=TOLERANCE))


__all__ = ["PolicyContractError", "check_policy"]
