"""A policy that proposes and a critic that chooses: one checkpoint, used like any other policy.

B windows, T steps, S proposals, F features, K actions per chunk, A action dimensions, D tokens per chunk, V ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from vla.config import Choice, Config, UserError, register
from vla.models.critics import ActionCritic, CriticConfig
from vla.models.policy import Policy, PolicyConfig
from vla.tokenizers.base import ActionTokenizer
from vla.types import ActionDistribution, Batch, Observation, PolicyOutput, Spec


class BestOfN(Config):
    """Draw some chunks, execute one by its Q."""

    type: Literal["best_of_n"] = "best_of_n"
    samples: int = Field(default=16, ge=1)
    """Chunks that are drawn, beside the most likely one."""
    temperature: float = Field(default=1.0, gt=0)
    """Of the draw: smaller proposes more of the same."""
    sharpness: float | None = Field(default=None, gt=0)
    """None executes the chunk of greatest Q; a number draws one in proportion to exp(sharpness * Q)."""


class Climb(Config):
    """Change one token after the other to the one of greatest Q."""

    type: Literal["climb"] = "climb"
    sweeps: int = Field(default=2, ge=1)
    """How often all tokens are gone through."""
    min_prob: float = Field(default=0.01, ge=0, lt=1)
    """Ids that the policy holds less likely than this share of its most likely one are not asked for; 0 asks for all."""


@register("policies", "guided")
class GuidedConfig(PolicyConfig):
    """A policy whose proposals a critic chooses from. Made by training (`extraction: {type: best_of_n}`)."""

    type: Literal["guided"] = "guided"
    policy: Annotated[Any, Choice("policies", unlisted=["guided", "multi_robot"])]
    """Who proposes."""
    critic: CriticConfig = CriticConfig()
    """Who chooses."""
    rule: BestOfN | Climb = Field(default=BestOfN(), discriminator="type")
    """How."""

    @model_validator(mode="before")
    @classmethod
    def _as_inside(cls, values: Any) -> Any:
        """Context and chunk are those of the policy inside."""
        inside = values.get("policy") if isinstance(values, dict) else None
        if isinstance(inside, PolicyConfig):
            return values | {"history": inside.history, "chunk": inside.chunk}
        return values

    @property
    def weights_file(self) -> str:
        return str(self.policy.weights_file)

    def build(self, spec: Spec, *, from_checkpoint: bool = False) -> GuidedPolicy:
        inside = self.policy.new(spec, from_checkpoint=from_checkpoint)
        return GuidedPolicy(
            self, inside, ActionCritic(self.critic, inside.feature_dim, spec, self.policy.chunk)
        )

    def build_for(self, spec: Spec, folder: Path) -> GuidedPolicy:
        inside = self.policy.build_for(spec, folder)
        return GuidedPolicy(
            self, inside, ActionCritic(self.critic, inside.feature_dim, spec, self.policy.chunk)
        )


def check_rule(rule: BestOfN | Climb, policy: Policy) -> None:
    """Raises UserError where a policy's tokens cannot be changed one by one as the rule does."""
    tokenizer = policy.tokenizer
    if isinstance(rule, Climb) and tokenizer.tokens_per_action != tokenizer.action_dim:
        raise UserError(
            f"argmax_q changes one token for one action dimension, but those of {type(tokenizer).__name__} say "
            "several at once; use tokenizer: {type: bins}, or extraction: {type: best_of_n}"
        )


def guide(policy: Policy, config: GuidedConfig, critic: ActionCritic) -> GuidedPolicy:
    """Policy and critic as one, sharing their weights with what was given, in the policy's mode."""
    return GuidedPolicy(config, policy, critic).train(policy.training)


class GuidedPolicy(Policy):
    """See the module's docstring."""

    config: GuidedConfig

    def __init__(self, config: GuidedConfig, policy: Policy, critic: ActionCritic) -> None:
        super().__init__(config, policy.spec, tokenizer=policy.tokenizer, language=None)
        self.policy, self.critic = policy, critic
        self.language, self.card, self.feature_dim = (
            policy.language,
            policy.card,
            policy.feature_dim,
        )
        for name in ("return_conditioned", "counts_steps"):
            if hasattr(policy, name):
                setattr(self, name, getattr(policy, name))
        check_rule(config.rule, policy)
        self.to(policy.device)

    @property
    def unwrapped(self) -> Policy:
        return self.policy

    def forward(self, batch: Batch) -> PolicyOutput:
        return self._guided(self.policy(batch))

    def step(self, observation: Observation, memory: Any) -> tuple[PolicyOutput, Any]:
        output, memory = self.policy.step(observation, memory)
        return self._guided(output), memory

    def remember(self, memory: Any, actions: Float[Tensor, "B K A"]) -> Any:
        return self.policy.remember(memory, actions)

    def fit(
        self,
        actions: Any,
        states: Any,
        instructions: Sequence[str],
        *,
        lengths: Sequence[int] | None = None,
    ) -> None:
        self.policy.fit(actions, states, instructions, lengths=lengths)

    def use_tokenizer(self, tokenizer: ActionTokenizer) -> None:
        self.tokenizer = tokenizer
        self.policy.use_tokenizer(tokenizer)

    def weights(self) -> dict[str, Tensor]:
        """The tensors of the policy inside and of the critic."""
        inside = {f"policy.{name}": tensor for name, tensor in self.policy.weights().items()}
        own = {name: t for name, t in self.state_dict().items() if not name.startswith("policy.")}
        return inside | own

    def save_extra_files(self, folder: Path) -> None:
        self.policy.save_extra_files(folder)

    def _guided(self, output: PolicyOutput) -> PolicyOutput:
        actions = GuidedActions(
            output.actions, output.features, self.critic, self.config.rule, self.tokenizer
        )
        return PolicyOutput(output.features, actions, output.losses)


@dataclass(frozen=True)
class GuidedActions:
    """What the critic makes of a distribution. Losses and likelihoods are those of the distribution inside.

    Attributes:
        inside: the proposals' distribution.
        features: (B, T, F).
        critic: tells Q.
        rule: how it chooses.
        tokenizer: of the policy.
    """

    inside: ActionDistribution
    features: Tensor
    critic: ActionCritic
    rule: BestOfN | Climb
    tokenizer: ActionTokenizer

    def loss(self, actions: Tensor, action_mask: Tensor | None = None) -> Tensor:
        """Of imitation, by the distribution inside."""
        return self.inside.loss(actions, action_mask)

    def mode(self) -> Float[Tensor, "B T K A"]:
        """The chosen chunk; by `best_of_n` it depends on torch's generator."""
        return self.sample(temperature=0.0)

    def sample(
        self, generator: torch.Generator | None = None, *, temperature: float = 1.0
    ) -> Float[Tensor, "B T K A"]:
        """The chosen chunk. A temperature above 0 multiplies that of the proposals; 0 keeps it and chooses the best."""
        if temperature < 0:
            raise ValueError(f"temperature must be 0 (the best) or positive, got {temperature}")
        if isinstance(self.rule, Climb):
            return self._climb(self.rule)
        return self._choose(self.rule, generator, temperature)

    def q(self, actions: Float[Tensor, "... B T K A"]) -> Float[Tensor, "... B T"]:
        """Least Q of the ensemble."""
        return self.critic(self.features, actions).min(0).values

    def _choose(
        self, rule: BestOfN, generator: torch.Generator | None, temperature: float
    ) -> Tensor:
        spread = rule.temperature * (temperature or 1.0)
        drawn = [self.inside.sample(generator, temperature=spread) for _ in range(rule.samples)]
        proposals_SBTKA = torch.stack([self.inside.mode(), *drawn])
        q_SBT = self.q(proposals_SBTKA)
        if rule.sharpness is None or temperature == 0:
            best_BT = q_SBT.argmax(0)
        else:
            shares = (rule.sharpness * q_SBT).softmax(0).flatten(1).T
            best_BT = torch.multinomial(shares, 1, generator=generator).view(q_SBT.shape[1:])
        index = best_BT[None, ..., None, None].expand(1, *proposals_SBTKA.shape[1:])
        return proposals_SBTKA.gather(0, index)[0]

    def _climb(self, rule: Climb) -> Tensor:
        logits_BTDV: Tensor = self.inside.logits  # type: ignore[attr-defined]  # of independent tokens
        log_probs = logits_BTDV.float().log_softmax(-1)
        floor = -torch.inf if rule.min_prob == 0 else torch.log(torch.tensor(rule.min_prob))
        likely_BTDV = torch.isfinite(log_probs) & (
            log_probs >= log_probs.amax(-1, keepdim=True) + floor
        )
        ids_BTD, V = log_probs.argmax(-1), logits_BTDV.shape[-1]
        candidates_V = torch.arange(V, device=ids_BTD.device)
        for _ in range(rule.sweeps):
            for place in range(ids_BTD.shape[-1]):
                allowed_BTV = likely_BTDV[..., place, :]
                tried_VBTD = ids_BTD.expand(V, *ids_BTD.shape).clone()
                # ids that may not stand there are asked for by one that may, and never win
                own_BT = ids_BTD[..., place]
                tried_VBTD[..., place] = torch.where(
                    allowed_BTV.movedim(-1, 0), candidates_V[:, None, None], own_BT[None]
                )
                q_VBT = self.q(self.tokenizer.decode(tried_VBTD)).masked_fill(
                    ~allowed_BTV.movedim(-1, 0), -torch.inf
                )
                ids_BTD = ids_BTD.clone()
                ids_BTD[..., place] = q_VBT.argmax(0)
        return self.tokenizer.decode(ids_BTD)


__all__ = [
    "BestOfN",
    "Climb",
    "GuidedActions",
    "GuidedConfig",
    "GuidedPolicy",
    "check_rule",
    "guide",
]
