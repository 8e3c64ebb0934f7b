"""A policy that proposes and a critic that chooses: one checkpoint, used like any other policy.

B windows, T steps, S proposals, F features, K actions per chunk, A action dimensions,
D tokens per chunk, V ids.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import BeforeValidator, Field
from torch import Tensor

from vla.common.renamed import announce_renamed, former_attributes
from vla.config import Config, UserError, register
from vla.models.critics import ActionCritic, CriticConfig
from vla.models.policy import Policy
from vla.models.policy_wrapper import PolicyWrapper, PolicyWrapperConfig
from vla.models.sampling import sample_many
from vla.tokenizers.base import ActionTokenizer
from vla.types import ActionDistribution, Batch, Observation, PolicyOutput


class BestOfN(Config):
    """Draw some chunks, execute one by its Q (Chen et al., 2023, SfBC)."""

    former_keys: ClassVar[dict[str, str]] = {"sharpness": "inverse_temperature"}
    type: Literal["best_of_n"] = "best_of_n"
    samples: int = Field(default=16, ge=1, le=100000)
    """Chunks that are drawn, beside the most likely one."""
    temperature: float = Field(default=1.0, gt=0)
    """Of the draw: smaller proposes more of the same."""
    inverse_temperature: float | None = Field(default=None, gt=0)
    """None executes the chunk of greatest Q; a number draws one in proportion to
    exp(inverse_temperature * Q)."""


class CoordinateAscent(Config):
    """Change one token after the other to the one of greatest Q."""

    type: Literal["coordinate_ascent"] = "coordinate_ascent"
    sweeps: int = Field(default=2, ge=1, le=1000)
    """How often all tokens are gone through."""
    min_prob: float = Field(default=0.01, ge=0, lt=1)
    """Ids that the policy holds less likely than this share of its most likely one are not asked
    for; 0 asks for all."""


def _accept_climb(selection: Any) -> Any:
    """Reads `type: climb`, the former name of coordinate ascent."""
    if isinstance(selection, dict) and selection.get("type") == "climb":
        announce_renamed("type: climb", "type: coordinate_ascent")
        return {**selection, "type": "coordinate_ascent"}
    return selection


CoordinateAscentChoice = Annotated[CoordinateAscent, BeforeValidator(_accept_climb)]
Selection = Annotated[
    BestOfN | CoordinateAscent, Field(discriminator="type"), BeforeValidator(_accept_climb)
]
"""How a critic chooses among a policy's proposals."""


@register("policies", "guided")
class CriticGuidedConfig(PolicyWrapperConfig):
    """A policy whose proposals a critic chooses from.

    Made by training (`extraction: {type: best_of_n}`).
    """

    former_keys: ClassVar[dict[str, str]] = {"rule": "selection"}
    type: Literal["guided"] = "guided"
    critic: CriticConfig = CriticConfig()
    """Who chooses."""
    selection: Selection = BestOfN()
    """How."""

    def around(self, inside: Policy) -> CriticGuidedPolicy:
        critic = ActionCritic(
            self.critic,
            inside.feature_dim,
            inside.spec,
            self.policy.chunk,
        )
        return CriticGuidedPolicy(self, inside, critic)


def check_selection(selection: BestOfN | CoordinateAscent, policy: Policy) -> None:
    """Raises UserError if coordinate ascent cannot change a policy's tokens one by one."""
    tokenizer = policy.tokenizer
    # an id of a vector quantiser means several numbers at once: no coordinate to climb along
    if (
        isinstance(selection, CoordinateAscent)
        and tokenizer.tokens_per_action != tokenizer.action_dim
    ):
        raise UserError(
            "argmax_q changes one token for one action dimension, but those of "
            f"{type(tokenizer).__name__} say several at once; use tokenizer: {{type: bins}}, or "
            "extraction: {type: best_of_n}"
        )


def critic_guided(
    policy: Policy, config: CriticGuidedConfig, critic: ActionCritic
) -> CriticGuidedPolicy:
    """Policy and critic as one, sharing their weights with what was given, in the policy's mode."""
    return CriticGuidedPolicy(config, policy, critic).train(policy.training)


class CriticGuidedPolicy(PolicyWrapper):
    """See the module's docstring."""

    config: CriticGuidedConfig

    def __init__(
        self,
        config: CriticGuidedConfig,
        policy: Policy,
        critic: ActionCritic,
    ) -> None:
        super().__init__(config, policy)
        self.critic = critic
        # what simulation asks of the policy that acts
        self.executed_actions = config.critic.executed
        check_selection(config.selection, policy)
        self.to(policy.device)

    def forward(self, batch: Batch) -> PolicyOutput:
        return self._guided(self.policy(batch))

    def step(self, observation: Observation, memory: Any) -> tuple[PolicyOutput, Any]:
        output, memory = self.policy.step(observation, memory)
        return self._guided(output), memory

    def _guided(self, output: PolicyOutput) -> PolicyOutput:
        actions = CriticGuidedActions(
            output.actions,
            output.features,
            self.critic,
            self.config.selection,
            self.tokenizer,
        )
        return PolicyOutput(output.features, actions, output.losses)


@dataclass(frozen=True)
class CriticGuidedActions:
    """What the critic makes of a distribution. Losses are those of the distribution inside.

    Attributes:
        inside: the proposals' distribution.
        features: (B, T, F).
        critic: gives Q.
        selection: how it chooses.
        tokenizer: of the policy.
    """

    inside: ActionDistribution
    features: Float[Tensor, "B T F"]
    critic: ActionCritic
    selection: BestOfN | CoordinateAscent
    tokenizer: ActionTokenizer

    def loss(
        self, actions: Float[Tensor, "B T K A"], action_mask: Tensor | None = None
    ) -> Float[Tensor, "B T"]:
        """Of imitation, by the distribution inside."""
        return self.inside.loss(actions, action_mask)

    def mode(self) -> Float[Tensor, "B T K A"]:
        """The chosen chunk; by `best_of_n` it depends on torch's generator."""
        return self.sample(temperature=0.0)

    def sample(
        self, generator: torch.Generator | None = None, *, temperature: float = 1.0
    ) -> Float[Tensor, "B T K A"]:
        """The chosen chunk.

        A temperature above 0 multiplies that of the proposals; 0 keeps it and chooses the best.
        Raises ValueError if it is negative.
        """
        if temperature < 0:
            raise ValueError(f"temperature must be 0 (the best) or positive, got {temperature}")
        if isinstance(self.selection, CoordinateAscent):
            return self._coordinate_ascent(self.selection)
        return self._best_of_n(self.selection, generator, temperature)

    def q(self, actions: Float[Tensor, "... B T K A"]) -> Float[Tensor, "... B T"]:
        """Least Q of the ensemble."""
        return self.critic(self.features, actions).min(0).values

    def _best_of_n(
        self, selection: BestOfN, generator: torch.Generator | None, temperature: float
    ) -> Float[Tensor, "B T K A"]:
        # 0 asks for the best, not for equal proposals: those are drawn as the config says
        spread = selection.temperature * (temperature or 1.0)
        # of one pass of the trunk: a language model reads its prompt once for all proposals
        drawn_SBTKA = sample_many(
            self.inside,
            selection.samples,
            generator,
            temperature=spread,
        )
        # with the most likely chunk among them, no bad luck of the draw makes the policy worse by Q
        proposals_SBTKA = torch.cat([self.inside.mode()[None], drawn_SBTKA])
        q_SBT = self.q(proposals_SBTKA)
        if selection.inverse_temperature is None or temperature == 0:
            best_BT = q_SBT.argmax(0)
        else:
            # multinomial takes rows: one per step, S shares each
            shares = (selection.inverse_temperature * q_SBT).softmax(0).flatten(1).T
            chosen = torch.multinomial(shares, 1, generator=generator)
            best_BT = chosen.view(q_SBT.shape[1:])
        index_1BTKA = best_BT[None, ..., None, None].expand(1, *proposals_SBTKA.shape[1:])
        return proposals_SBTKA.gather(0, index_1BTKA)[0]

    def _coordinate_ascent(self, selection: CoordinateAscent) -> Float[Tensor, "B T K A"]:
        # of independent tokens: those of an autoregressive head would change with each id
        logits_BTDV: Tensor = self.inside.logits  # type: ignore[attr-defined]
        log_probs_BTDV = logits_BTDV.float().log_softmax(-1)
        likely_BTDV = self._likely(log_probs_BTDV, selection.min_prob)
        V = logits_BTDV.shape[-1]
        ids_BTD = log_probs_BTDV.argmax(-1)
        candidates_V11 = torch.arange(V, device=ids_BTD.device)[:, None, None]
        # of the actions that Q reads: to the others it is blind, and they stay the most likely ones
        places = self.critic.executed * self.tokenizer.action_dim
        for _ in range(selection.sweeps):
            for place in range(places):
                allowed_VBT = likely_BTDV[..., place, :].movedim(-1, 0)
                own_BT = ids_BTD[..., place]
                # an id that may not stand here is not decoded, which could fail: the present one
                # takes its place, and minus infinity keeps it from winning
                tried_VBTD = ids_BTD.expand(V, *ids_BTD.shape).clone()
                tried_VBTD[..., place] = torch.where(allowed_VBT, candidates_V11, own_BT[None])
                q_VBT = self.q(self.tokenizer.decode(tried_VBTD))
                q_VBT = q_VBT.masked_fill(~allowed_VBT, -torch.inf)
                # the next place is tried with this one changed already
                ids_BTD = ids_BTD.clone()
                ids_BTD[..., place] = q_VBT.argmax(0)
        return self.tokenizer.decode(ids_BTD)

    @staticmethod
    def _likely(
        log_probs: Float[Tensor, "B T D V"],
        min_prob: float,
    ) -> Bool[Tensor, "B T D V"]:
        """Which ids may stand at each place and are likely enough."""
        # without the bound the critic is asked for actions that nobody ever did, which it overrates
        floor = -torch.inf if min_prob == 0 else torch.log(torch.tensor(min_prob))
        likely = log_probs >= log_probs.amax(-1, keepdim=True) + floor
        # ids that the tokenizer does not allow are minus infinity, and pass if `min_prob` is 0
        return torch.isfinite(log_probs) & likely


_FORMER = {
    "Climb": "CoordinateAscent",  # former name
    "GuidedActions": "CriticGuidedActions",
    "GuidedConfig": "CriticGuidedConfig",
    "GuidedPolicy": "CriticGuidedPolicy",
    "check_rule": "check_selection",
    "guide": "critic_guided",
}
if not TYPE_CHECKING:  # a type checker would take every misspelled import for an attribute
    __getattr__ = former_attributes(__name__, _FORMER)

__all__ = [
    "BestOfN",
    "CoordinateAscent",
    "CoordinateAscentChoice",
    "CriticGuidedActions",
    "CriticGuidedConfig",
    "CriticGuidedPolicy",
    "Selection",
    "check_selection",
    "critic_guided",
]
