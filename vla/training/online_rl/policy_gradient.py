"""Policy gradients over the tokens that were executed: the loss behind reinforce, a2c, ppo, grpo.

B windows, T steps, K actions per chunk, N tokens per chunk, D decisions, E episodes.
"""

from __future__ import annotations

import warnings
from abc import ABC
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from vla.common.errors import Notice
from vla.config import ConfigError, ConfigPath
from vla.config.ignored_options import refuse_ignored_options
from vla.data import Windows
from vla.models.critics import CriticConfig, StateCritic
from vla.models.policy import Policy, load_policy
from vla.models.transfer.cameras import cameras_of
from vla.training.losses import Metrics, masked_mean
from vla.training.objective import Objective, ObjectiveConfig, ObjectiveError
from vla.training.online_rl.advantages import (
    Decisions,
    generalised_advantages,
    group_advantages,
    returns_of,
)
from vla.training.online_rl.likelihood import Likelihood, likelihood
from vla.types import Batch, PolicyOutput, TokenDistribution

DECISION = "decision"
GROUP = "group"
ADVANTAGE = "advantage"
TARGET = "value_target"
OLD_LOG_PROB = "old_log_prob"
ROUND_COLUMNS = (ADVANTAGE, TARGET, OLD_LOG_PROB)
"""What `begin_round` gives and `loss` reads."""
_WINDOWS_AT_ONCE = 256
_TOLERANCE = {False: 1e-3, True: 0.1}
"""Of the first ratio, in float32 and in bf16."""


class PolicyGradientConfig(ObjectiveConfig, ABC):
    """What the presets share. Learns in `vla online`, from what the policy just did.

    Formula, over the tokens j of the executed part of each chunk, with r_j = pi(a_j) / pi_old(a_j):

        L = -mean_j min(r_j A, clip(r_j, 1 - clip_low, 1 + clip_high) A)
            - entropy * H + kl * KL(pi || prior) + value_weight * (V - target)^2 / 2
    """

    discount: float = Field(default=0.99, gt=0, le=1)
    """Per environment step."""
    temperature: float = Field(default=1.0, gt=0, le=100)
    """With which the policy's actions were drawn; `vla online` acts with it."""
    entropy: float = Field(default=0.0, ge=0)
    """Weight of the entropy of each token, nats."""
    kl: float = Field(default=0.0, ge=0)
    """Weight of the divergence from `prior`, nats for each token."""
    prior: ConfigPath | None = None
    """Folder of the policy that must not be left too far; null for none."""
    normalise: bool = True
    """Take advantages in units of their standard deviation over the round, from their mean."""

    @property
    def acting_temperature(self) -> float:
        return self.temperature

    def check_prior(self, policy: Policy) -> Policy | None:
        """The prior policy. Raises ConfigError if it is another robot's, or has no use."""
        if (self.prior is None) != (self.kl == 0):
            raise ConfigError(
                ["objective.prior: goes with objective.kl above 0; set both of them or none"]
            )
        if self.prior is None:
            return None
        prior = load_policy(self.prior).unwrapped
        lines = policy.spec.differences(prior.spec) or _prior_differences(policy, prior)
        if lines:
            raise ConfigError([f"objective.prior: {self.prior}: {line}" for line in lines])
        return prior.requires_grad_(False).eval()


class ValuedConfig(PolicyGradientConfig, ABC):
    """What the presets with a value function share."""

    decay: float = Field(default=0.95, ge=0, le=1)
    """lambda of GAE: 0 looks one decision ahead, 1 to the episode's end."""
    bootstrap_time_limits: bool = False
    """Whether an episode that was cut off goes on with the value of its last decision. False
    counts it as ended: right where a task must be solved in time, else set it."""
    value_weight: float = Field(default=0.5, gt=0)
    """Weight of the value loss; its networks learn at the rate of `optim.critic`, if it is set."""
    value_warmup: int = Field(default=1, ge=0)
    """First rounds in which the values learn alone: advantages of values that know nothing yet
    would be noise."""
    critic: CriticConfig = CriticConfig()
    """Network of V over the policy's features."""

    @model_validator(mode="after")
    def _no_option_is_ignored(self) -> ValuedConfig:
        why = "V is learned as a number, and there is no Q; drop it"
        refuse_ignored_options(self, ("critic.bins", "critic.executed"), why)
        return self


class PolicyGradient(Objective):
    """See `PolicyGradientConfig`.

    Args:
        policy: that learns.
        config: of one of the presets.
        clip: how far ratios count, (low, high); None for no limit.
        by_groups: advantages of groups of equal starts, by options of `group_advantages`; None for
            values or returns.
    """

    rounds: Tensor
    """Rounds that were begun."""

    def __init__(
        self,
        policy: Policy,
        config: PolicyGradientConfig,
        *,
        clip: tuple[float, float] | None = None,
        by_groups: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.discount = config.discount
        self.clip = clip
        self.by_groups = by_groups
        self.extras = (DECISION,) if by_groups is None else (DECISION, GROUP)
        self.valued = config if isinstance(config, ValuedConfig) else None
        self.value: StateCritic | None = None
        if self.valued is not None:
            self.value = StateCritic(self.valued.critic, policy.feature_dim)
        # not a submodule: it neither learns nor belongs into checkpoints
        self._prior = [config.check_prior(policy)]
        self.register_buffer("rounds", torch.zeros((), dtype=torch.int64))
        self._notes: dict[str, float] = {}
        self._teaches = True
        self._first = False

    @property
    def acts_in_eval_mode(self) -> bool:
        return True

    @property
    def freezes_policy(self) -> bool:
        warmup = 0 if self.valued is None else self.valued.value_warmup
        return not self._teaches or int(self.rounds) <= warmup

    def fit(self, windows: Windows) -> None:
        """Raises ObjectiveError if the data are of no policy's own acting."""
        missing = [name for name in self.extras if name not in windows.extras]
        if missing:
            raise ObjectiveError(
                f"objective: {windows.dataset.root} has no column {missing[0]!r}, which tells what "
                "a policy chose itself; policy gradients learn from what they did: use `vla online`"
            )

    def window_weights(self, windows: Windows) -> np.ndarray:
        return (windows.extras[DECISION] > 0).astype(np.float64)

    @torch.no_grad()
    def begin_round(self, policy: Policy, windows: Windows) -> dict[str, np.ndarray]:
        self.rounds += 1
        decisions = Decisions.of(
            windows.extras[DECISION],
            windows.rewards,
            windows.terminals,
            windows.lengths,
            discount=self.discount,
        )
        if not len(decisions.step):
            raise ObjectiveError(
                "objective: the policy chose no action in this round; lower label.beta or close "
                "its gate"
            )
        old_DN, values_D = self._asked(policy, windows, decisions.step)
        returns_D = returns_of(decisions)
        self._notes = {}
        advantage_D, target_D = self._advantages(windows, decisions, values_D, returns_D)
        self._teaches = bool(np.ptp(returns_D) > 0) and bool(np.any(advantage_D))
        if not self._teaches:
            # all that happened was worth the same: what is left is the values' noise
            advantage_D = np.zeros_like(advantage_D)
            warnings.warn(Notice(f"objective: {self._why_nothing(returns_D)}"), stacklevel=2)
        elif self.config.normalise and self.by_groups is None:
            advantage_D = (advantage_D - advantage_D.mean()) / (advantage_D.std() + 1e-8)
        self._notes["teaches"] = float(self._teaches)
        self._first = True
        columns = {
            ADVANTAGE: advantage_D,
            TARGET: target_D,
            OLD_LOG_PROB: old_DN,
        }
        return {name: _on_all(values, decisions, windows) for name, values in columns.items()}

    def _why_nothing(self, returns: np.ndarray) -> str:
        """Why the policy is left as it is in this round."""
        left = "the policy is left as it is in such a round"
        if np.ptp(returns) == 0:
            return (
                f"all returns are {float(returns[0]):g}, so that nothing was better than anything "
                f"else; {left}. If it goes on so: play more episodes (episodes_per_round), begin "
                "with a policy that succeeds sometimes (init_from), or give denser rewards "
                "(rewards)"
            )
        return (
            f"the episodes of each start all came to the same; {left}. If it goes on so: play more "
            "episodes of each start (episodes_per_start), or act at a higher "
            "objective.temperature"
        )

    def _check_prior_tokens(self, policy: Policy) -> None:
        """Raises ConfigError if equal ids are other actions to the prior than to the policy."""
        prior = self._prior[0]
        if prior is None:
            return
        if policy.tokenizer.to_dict() != prior.tokenizer.to_dict():
            raise ConfigError(
                [
                    f"objective.prior: {self.config.prior} has another tokenizer, or one that was "
                    "fitted to other actions, so that its tokens are other actions; begin with it "
                    f"(init_from: {self.config.prior}), or name another prior"
                ]
            )

    def _asked(
        self, policy: Policy, windows: Windows, steps: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Log probabilities (D, N) of what was executed, and V (D,), 0 without values."""
        log_probs: list[np.ndarray] = []
        values = []
        device = next(policy.parameters()).device
        for rows in parts_of(steps):
            batch = windows.batch(rows).to(device)
            output = policy(batch)
            if not log_probs and isinstance(output.actions, TokenDistribution):
                self._check_prior_tokens(policy)
            log_probs.append(self._likelihood(output.actions, batch).log_prob[:, -1].cpu().numpy())
            if self.value is not None:
                values.append(self.value(output.features)[:, -1].cpu().numpy())
        found = np.concatenate(values) if values else np.zeros(len(steps), np.float32)
        return np.concatenate(log_probs), found.astype(np.float64)

    def _advantages(
        self,
        windows: Windows,
        decisions: Decisions,
        values: np.ndarray,
        returns: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """(D,) each: advantages, and targets of V."""
        if self.by_groups is not None:
            starts_E = np.cumsum(windows.lengths) - windows.lengths
            age_N = np.arange(len(windows)) - np.repeat(starts_E, windows.lengths)
            scores_E = np.add.reduceat(windows.rewards * self.discount**age_N, starts_E)
            found = group_advantages(scores_E, windows.extras[GROUP][starts_E], **self.by_groups)
            self._notes["groups_kept"] = found.kept
            return found.advantage[decisions.episode], returns
        if self.valued is None:
            return returns, returns
        variance = returns.var()
        if variance > 0:
            self._notes["explained_variance"] = float(1 - (returns - values).var() / variance)
        return generalised_advantages(
            decisions,
            values,
            decay=self.valued.decay,
            bootstrap_time_limits=self.valued.bootstrap_time_limits,
        )

    def _likelihood(self, actions: Any, batch: Batch) -> Likelihood:
        """Of what was executed of the chunk that was chosen at each window's last step."""
        executed_BT1 = batch.extras[DECISION][..., None]
        place_K = torch.arange(batch.actions.shape[2], device=executed_BT1.device)
        mask_BTK = batch.action_mask & (place_K < executed_BT1)
        # earlier steps of a window lack the history that the policy had when it chose there
        last_T1 = torch.arange(mask_BTK.shape[1], device=mask_BTK.device)[:, None]
        mask_BTK = mask_BTK & (last_T1 == mask_BTK.shape[1] - 1)
        return likelihood(actions, batch.actions, mask_BTK, temperature=self.config.temperature)

    def weight(self, batch: Batch) -> Tensor:
        self._require_columns(batch)
        return batch.extras[DECISION][:, -1].sum()

    def loss(self, policy: Policy, batch: Batch) -> tuple[Tensor, Metrics]:
        self._require_columns(batch)
        output = policy(batch)
        loss, metrics = self._policy_loss(output, batch)
        if self.value is not None and self.valued is not None:
            value_loss = self._value_loss(output, batch)
            loss = loss + self.valued.value_weight * value_loss
            metrics["value_loss"] = value_loss.detach()
        for name, number in self._notes.items():
            metrics[name] = torch.tensor(number, device=loss.device)
        return loss, metrics

    def _policy_loss(self, output: PolicyOutput, batch: Batch) -> tuple[Tensor, Metrics]:
        """All but the values' part; a mean over the tokens that were executed."""
        new = self._likelihood(output.actions, batch)
        # masked first: -inf of a place that does not count would become NaN
        log_ratio_BTN = (new.log_prob - batch.extras[OLD_LOG_PROB]).where(new.mask, 0.0)
        if self._first:
            self._check_first(log_ratio_BTN)
            self._first = False
        advantage_BT1 = batch.extras[ADVANTAGE][..., None]
        ratio_BTN = log_ratio_BTN.exp()
        gain_BTN = ratio_BTN * advantage_BT1
        clipped = torch.zeros_like(ratio_BTN)
        if self.clip is not None:
            low, high = self.clip
            limited_BTN = ratio_BTN.clamp(1 - low, 1 + high)
            gain_BTN = torch.minimum(gain_BTN, limited_BTN * advantage_BT1)
            clipped = (ratio_BTN != limited_BTN).float()
        entropy = masked_mean(new.entropy(), new.mask)
        loss = -masked_mean(gain_BTN, new.mask) - self.config.entropy * entropy
        metrics: Metrics = {
            "entropy": entropy.detach(),
            # k3 estimator: unbiased, never below 0 (Schulman, 2020, "Approximating KL divergence")
            "kl": masked_mean((ratio_BTN - 1 - log_ratio_BTN).detach(), new.mask),
            "clipped": masked_mean(clipped, new.mask),
        }
        prior = self._prior[0]
        if prior is not None:
            with torch.no_grad():
                of_prior = self._likelihood(prior.to(batch.state.device)(batch).actions, batch)
            divergence = masked_mean(new.kl(of_prior), new.mask)
            loss = loss + self.config.kl * divergence
            metrics["prior_kl"] = divergence.detach()
        return loss, metrics

    def _value_loss(self, output: PolicyOutput, batch: Batch) -> Tensor:
        """Mean over decisions of (V - target)^2 / 2."""
        assert self.value is not None
        assert self.valued is not None
        features = output.features if self.valued.critic.joint else output.features.detach()
        error_B = self.value(features)[:, -1] - batch.extras[TARGET][:, -1]
        return masked_mean(error_B.square() / 2, batch.extras[DECISION][:, -1] > 0)

    def validate(self, policy: Policy, batch: Batch) -> Metrics:
        loss, metrics = self.loss(policy, batch)
        return {"loss": loss.detach()} | metrics

    def _require_columns(self, batch: Batch) -> None:
        for name in (*self.extras, *ROUND_COLUMNS):
            if name not in batch.extras:
                raise ObjectiveError(
                    f"objective: the batch has no column {name!r}; policy gradients learn from "
                    "what the policy just did: use `vla online`"
                )

    def _check_first(self, log_ratio: Float[Tensor, "B T N"]) -> None:
        """Raises ObjectiveError if the policy is not the one that acted."""
        worst = float((log_ratio.detach().exp() - 1).abs().max())
        reduced = torch.is_autocast_enabled(log_ratio.device.type)
        if worst > _TOLERANCE[reduced]:
            raise ObjectiveError(
                f"objective: before the first update of a round the policy's ratio to itself "
                f"differs from 1 by {worst:.2g}; dropout, batch norm in training mode or another "
                "temperature change what it does (policy.dropout=0, objective.temperature as the "
                "actions were drawn)"
            )


def _prior_differences(policy: Policy, prior: Policy) -> list[str]:
    """Why a prior of the same robot cannot be asked about the policy's windows, in words."""
    lines = []
    for name in ("chunk", "history"):
        own, other = getattr(policy, name), getattr(prior, name)
        if own != other:
            lines.append(f"its {name} is {other}, the policy's {own}; name a prior of the same")
    unseen = [camera for camera in cameras_of(prior) if camera not in cameras_of(policy)]
    if unseen:
        lines.append(f"it looks through {', '.join(unseen)}, which the policy does not")
    for camera in cameras_of(prior):
        # windows hold images at the policy's own size
        own, other = policy.image_sizes.get(camera), prior.image_sizes.get(camera)
        if camera not in unseen and own != other:
            lines.append(f"it sees {camera} at {other}, the policy at {own}")
    return lines


def _on_all(values: np.ndarray, decisions: Decisions, windows: Windows) -> np.ndarray:
    """(D, ...) -> (N, ...) float32, 0 where nothing was decided."""
    column = np.zeros((len(windows), *values.shape[1:]), np.float32)
    column[decisions.step] = values
    return column


def parts_of(steps: np.ndarray) -> Iterator[np.ndarray]:
    """The windows of `steps`, so many at once as fit into memory."""
    for start in range(0, len(steps), _WINDOWS_AT_ONCE):
        yield steps[start : start + _WINDOWS_AT_ONCE]


__all__ = ["PolicyGradient", "PolicyGradientConfig", "ValuedConfig", "parts_of"]
