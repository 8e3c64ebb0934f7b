"""Fitted Q evaluation on arrays: values of policies whose actions at every recorded step are known.

The value of a policy is learned by regression on its own one-decision targets, r + discount *
Q(next, policy's action there) (Le, Voloshin and Yue, 2019, "Batch policy learning under
constraints", algorithm 3). All policies learn side by side: they start from the same weights and
see the same batches, so that their values differ by their actions alone.

N frames, M frames that teach, B batch, n environment steps per decision, F features, A action
dimensions, E members.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from pydantic import Field, model_validator
from torch import Tensor

from vla.config import Config
from vla.config.ignored_options import refuse_ignored_options
from vla.config.numbers import BatchSize, Count
from vla.data import Windows
from vla.models.critics import ActionCritic, CriticConfig
from vla.training.losses import n_step_returns
from vla.training.offline_rl.target_network import TargetCopy
from vla.types import Spec

_EVALUATION_ROWS = 4096  # frames that critics look at together when they are asked for values


class FittedQConfig(Config):
    """How the critics of fitted Q evaluation are trained."""

    critic: CriticConfig = CriticConfig(hidden=128)
    """Networks. Each member of the ensemble bootstraps from itself; an estimate is their mean."""
    warmup_steps: int = Field(default=500, ge=0)
    """First steps, shared by all policies, in which Q is fitted to the data's own returns: values
    are then about right before the policies' values part."""
    steps: Count = 3000
    """Steps of evaluation."""
    batch_size: BatchSize = 256
    """Frames per step."""
    lr: float = Field(default=3e-4, gt=0)
    """Learning rate."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Of all weights."""
    target_rate: float = Field(default=0.01, gt=0, le=1)
    """How far the target copies move towards the critics at every step; values are read from these
    copies."""
    within_data: bool = True
    """Keep targets between the least and the greatest return of the data: no policy is believed to
    be better than its best episode, and nothing diverges."""

    @model_validator(mode="after")
    def _no_option_is_ignored(self) -> FittedQConfig:
        why = "Q is of the actions of one decision, which replan_every says; drop it"
        refuse_ignored_options(self, ("critic.executed",), why)
        return self


@dataclass(frozen=True)
class Transitions:
    """Recorded frames as decisions of n steps, on one device.

    Attributes:
        features: (N, F).
        actions: (N, n, A), executed from each frame on; beyond an episode's end the last action
            again.
        returns, bootstrap, known: (N,), of `n_step_returns`. Of a truncated episode's last n steps
            nothing is known.
        next: (N,), the frame n steps later; the episode's last one if there is none.
        monte_carlo: (N,), discounted returns to go.
        teaches: (M,), the frames that critics learn from.
    """

    features: Float[Tensor, "N F"]
    actions: Float[Tensor, "N n A"]
    returns: Float[Tensor, " N"]
    bootstrap: Float[Tensor, " N"]
    known: Bool[Tensor, " N"]
    next: Int64[Tensor, " N"]
    monte_carlo: Float[Tensor, " N"]
    teaches: Int64[Tensor, " M"]


def transitions(
    windows: Windows,
    features: Float[Tensor, "N F"],
    *,
    n: int,
    teaching_episodes: int,
    device: torch.device,
) -> Transitions:
    """The frames of `windows` as decisions of `n` steps.

    Args:
        windows: single steps of the episodes, one episode after the other.
        features: what the critics read at each of them.
        n: environment steps per decision.
        teaching_episodes: the first so many episodes teach; the others are held out.
        device: of the result.
    """
    lengths = torch.tensor(windows.lengths)
    end_N1 = lengths.cumsum(0).repeat_interleave(lengths)[:, None]
    frame_N1 = torch.arange(len(windows))[:, None]
    # (N, n + 1): each frame and the n after it, held at the last frame of its own episode
    step_Nn = frame_N1 + torch.arange(n + 1)
    inside_Nn = step_Nn < end_N1
    step_Nn = step_Nn.minimum(end_N1 - 1)
    # windows of n + 1 steps have one target each: the axis T of the result is 1
    returns_N1, bootstrap_N1, known_N1 = n_step_returns(
        torch.tensor(windows.rewards)[step_Nn],
        torch.tensor(windows.terminals)[step_Nn],
        inside_Nn,
        n=n,
        discount=windows.discount,
    )
    actions_NnA = torch.tensor(windows.actions)[step_Nn[:, :n]]
    known_N = known_N1[:, 0]
    teaching_frames = int(lengths[:teaching_episodes].sum())
    teaches_M = known_N[:teaching_frames].nonzero()[:, 0]
    return Transitions(
        features=features.to(device),
        actions=actions_NnA.to(device),
        returns=returns_N1[:, 0].to(device),
        bootstrap=bootstrap_N1[:, 0].to(device),
        known=known_N.to(device),
        next=step_Nn[:, n].to(device),
        monte_carlo=torch.tensor(windows.returns).to(device),
        teaches=teaches_M.to(device),
    )


class FittedQ:
    """Q of one policy.

    Args:
        critic: learns.
        actions: (N, n, A), of the policy at every frame.
    """

    def __init__(
        self,
        critic: ActionCritic,
        actions: Float[Tensor, "N n A"],
    ) -> None:
        self.critic = critic
        self.actions = actions
        self.target = TargetCopy(critic)

    def loss(
        self,
        data: Transitions,
        index_B: Tensor,
        limits: tuple[float, float] | None,
    ) -> Float[Tensor, ""]:
        """Squared error from the targets, summed over members."""
        target_EB = self._targets(data, index_B, limits)
        q_EB = _q(self.critic, data.features, data.actions, index_B)
        error_EB = q_EB - target_EB
        # summed over members: each learns as if it were alone
        return error_EB.square().mean(-1).sum()

    @torch.no_grad()
    def td_error(self, data: Transitions, index_B: Tensor) -> float:
        """Root mean square of r + discount * Q(next, policy) - Q(data), if known; NaN without
        any."""
        index_B = index_B[data.known[index_B]]
        errors = []
        for part in index_B.split(_EVALUATION_ROWS):
            q_EB = _q(self.target.network, data.features, data.actions, part)
            target_EB = self._targets(data, part, None)
            # of the members' mean, since that is the estimate
            errors.append(q_EB.mean(0) - target_EB.mean(0))
        mean_square = torch.cat(errors).square().mean()
        return float(mean_square.sqrt())

    @torch.no_grad()
    def values(
        self, data: Transitions, index_B: Tensor, *, of: str = "policy"
    ) -> Float[Tensor, "E B"]:
        """Q of the policy's actions, or of those of the `data`, on the CPU."""
        actions = self.actions if of == "policy" else data.actions
        # read from the slow copy, an average over the last steps: less noise of single batches
        network = self.target.network
        parts = []
        for part in index_B.split(_EVALUATION_ROWS):
            parts.append(_q(network, data.features, actions, part))
        return torch.cat(parts, dim=1).cpu()

    @torch.no_grad()
    def _targets(
        self,
        data: Transitions,
        index_B: Tensor,
        limits: tuple[float, float] | None,
    ) -> Float[Tensor, "E B"]:
        # each member bootstraps from itself: the least of all, as in training, would value too low
        next_q_EB = _q(self.target.network, data.features, self.actions, data.next[index_B])
        bootstrap_B = data.bootstrap[index_B]
        # a product with zero would let through what is not finite
        bootstrapped_EB = torch.where(bootstrap_B > 0, bootstrap_B * next_q_EB, 0.0)
        target_EB = data.returns[index_B] + bootstrapped_EB
        return target_EB if limits is None else target_EB.clamp(*limits)


def fit_q(
    data: Transitions,
    policy_actions: Sequence[Float[Tensor, "N n A"]],
    spec: Spec,
    config: FittedQConfig,
    *,
    seed: int = 0,
    progress: Callable[[int, Sequence[FittedQ]], None] | None = None,
) -> list[FittedQ]:
    """Q of each policy.

    Args:
        data: what is learned from.
        policy_actions: of each policy, on the device of `data`.
        spec: of the robot; its limits are the actions' units.
        config: networks and optimiser.
        seed: of initial weights and batches.
        progress: called with the step that was done and what is being learned.

    Raises:
        ValueError: no frame teaches.
    """
    if not len(data.teaches):
        raise ValueError(
            "no frame teaches: every episode is cut off within a decision of its start"
        )
    device = data.features.device
    rng = np.random.default_rng(seed)
    feature_dim = data.features.shape[1]
    n = data.actions.shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        shared = ActionCritic(config.critic, feature_dim, spec, n).to(device)
    _warm_up(shared, data, config, rng)
    learned = []
    for actions in policy_actions:
        # the same weights for all: else values would differ by their random starts too
        critic = ActionCritic(config.critic, feature_dim, spec, n).to(device)
        critic.load_state_dict(shared.state_dict())
        learned.append(FittedQ(critic, actions))
    limits = None
    if config.within_data:
        limits = float(data.monte_carlo.min()), float(data.monte_carlo.max())
    parameters: list[torch.nn.Parameter] = []
    for q in learned:
        parameters += q.critic.parameters()
    optimizer = _optimizer(parameters, config)
    for step in range(1, config.steps + 1):
        index_B = _draw(data, config.batch_size, rng)
        for q in learned:  # one after the other: their graphs need not be kept together
            q.loss(data, index_B, limits).backward()
        optimizer.step()
        optimizer.zero_grad()
        for q in learned:
            q.target.follow(q.critic, rate=config.target_rate)
        if progress is not None:
            progress(step, learned)
    return learned


def _warm_up(
    critic: ActionCritic, data: Transitions, config: FittedQConfig, rng: np.random.Generator
) -> None:
    """Regression on Monte-Carlo returns of the data."""
    optimizer = _optimizer(list(critic.parameters()), config)
    for _ in range(config.warmup_steps):
        index_B = _draw(data, config.batch_size, rng)
        q_EB = _q(critic, data.features, data.actions, index_B)
        error_EB = q_EB - data.monte_carlo[index_B]
        error_EB.square().mean(-1).sum().backward()
        optimizer.step()
        optimizer.zero_grad()


def _optimizer(
    parameters: list[torch.nn.Parameter], config: FittedQConfig
) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        parameters,
        lr=config.lr,
        weight_decay=config.weight_decay,
        fused=True,
    )


def _draw(
    data: Transitions,
    count: int,
    rng: np.random.Generator,
) -> Int64[Tensor, " B"]:
    # numpy's generator on the CPU: the same frames on every device
    rows = torch.from_numpy(rng.integers(len(data.teaches), size=count))
    return data.teaches[rows.to(data.teaches.device)]


def _q(
    critic: torch.nn.Module, features: Tensor, actions: Tensor, index_B: Tensor
) -> Float[Tensor, "E B"]:
    # critics read windows (B, T, ...): here each frame is a window of one step
    features_B1F = features[index_B][:, None]
    actions_B1nA = actions[index_B][:, None]
    q_EB1: Tensor = critic(features_B1F, actions_B1nA)
    return q_EB1[..., 0]


__all__ = ["FittedQ", "FittedQConfig", "Transitions", "fit_q", "transitions"]
