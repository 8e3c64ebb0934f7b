"""A state policy in a world with hidden numbers: given in training, inferred from then on.

Kumar et al. 2021, "RMA: rapid motor adaptation for legged robots" (arXiv:2107.04034). An encoder
makes a few numbers, the context z, of what only a simulator knows (friction, payload, delays); the
base policy acts on state and z. An adaptation module then learns to give z from the last k states
and actions, on the policy's own episodes. On the robot it takes the encoder's place.

B windows or robots, T steps, S state dimensions, A action dimensions, D privileged numbers, Z
numbers of the context, n remembered steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from vla.config import UserError, register
from vla.data.extras import PRIVILEGED
from vla.models.memory import age_mask, select_rows, stack_steps
from vla.models.policies.mlp import MLPConfig, MLPMemory
from vla.models.policy import Policy, PolicyConfig
from vla.models.roles import ACTION_INPUT, STATE_INPUT, STATISTICS, Role, roles_of
from vla.types import Batch, Observation, PolicyOutput, Spec

Range = Annotated[tuple[float, float], Field(description="least and greatest value")]


class ContextError(UserError):
    """The hidden numbers of the world that a policy needs are not there."""


@register("policies", "adaptive")
class AdaptiveConfig(PolicyConfig):
    """A state policy with a context that it infers from its last steps (RMA). It learns in two
    stages: by any objective with the hidden numbers, then by the objective `adaptation` without."""

    type: Literal["adaptive"] = "adaptive"
    history: int = Field(default=25, ge=2, le=1000)
    """Steps from which the context is inferred, the present one included. RMA: 50."""
    privileged: dict[str, Range] = Field(min_length=1)
    """The hidden numbers, in the order of the column `privileged`, each with the range that it is
    drawn from."""
    encoding: int = Field(default=8, ge=1, le=1024)
    """Numbers of the context. RMA: 8."""
    hidden: int = Field(default=128, ge=1, le=65536)
    """Width of the encoder and of the adaptation module."""
    policy: MLPConfig = MLPConfig()
    """The base policy, which reads state and context; `chunk` is the policy's own."""
    stage: Literal["base", "adapted"] = "base"
    """Where a new policy gets its context from. base: from the hidden numbers. adapted: from its
    last steps, as after the objective `adaptation`."""

    @model_validator(mode="after")
    def _consistent(self) -> AdaptiveConfig:
        for name, (low, high) in self.privileged.items():
            if not low < high:
                raise ValueError(f"privileged.{name}: needs low < high, got {[low, high]}")
        if self.standardise_language or self.indicator:
            raise ValueError(
                "standardise_language, indicator: are of the base policy; set them in policy.policy"
            )
        return self

    def build(self, spec: Spec, *, from_checkpoint: bool = False) -> AdaptivePolicy:
        """Raises SpecError if the spec has no state."""
        return AdaptivePolicy(self, spec)


@dataclass(frozen=True)
class AdaptiveMemory:
    """The last steps of B robots.

    Attributes:
        steps: `state` (B, n, S), normalised, and `action` (B, n, A), what was done in each, in
            units of the range; a robot's own are its last `ages`.
        ages: remembered steps of each robot.
        base: of the base policy.
    """

    steps: dict[str, Tensor]
    ages: tuple[int, ...]
    base: MLPMemory

    @property
    def batch_size(self) -> int:
        return len(self.ages)

    def select(self, rows: Sequence[int]) -> AdaptiveMemory:
        """The memory of some robots, in the order given."""
        ages = tuple(self.ages[row] for row in rows)
        return AdaptiveMemory(select_rows(self.steps, rows), ages, self.base.select(rows))

    @classmethod
    def stack(cls, memories: Sequence[AdaptiveMemory]) -> AdaptiveMemory:
        """The memories of several groups of robots, of whatever age, as one."""
        steps = {
            name: stack_steps([memory.steps[name] for memory in memories])
            for name in memories[0].steps
        }
        ages: list[int] = []
        for memory in memories:
            ages += memory.ages
        return cls(steps, tuple(ages), MLPMemory.stack([memory.base for memory in memories]))


class AdaptivePolicy(Policy):
    """See the module's docstring. Built by `AdaptiveConfig.build`, or read by `load_policy`."""

    config: AdaptiveConfig
    adapted: Tensor
    privileged_low: Tensor
    privileged_high: Tensor

    def __init__(self, config: AdaptiveConfig, spec: Spec) -> None:
        spec = dataclasses.replace(spec, cameras={})
        contexts = tuple(f"context_{number}" for number in range(config.encoding))
        inside = dataclasses.replace(spec, state_names=(*spec.state_names, *contexts))
        base = config.policy.model_copy(update={"chunk": config.chunk}).build(inside)
        super().__init__(config, spec, tokenizer=base.tokenizer, language=None)
        self.base = base
        self.language = base.language
        self.feature_dim = base.feature_dim
        # learning sets it, so it goes with the weights and not with the config
        self.register_buffer("adapted", torch.tensor(config.stage == "adapted"))
        self._adapting = False
        ranges = torch.tensor(list(config.privileged.values()))
        # they follow from the config, so they are not saved
        self.register_buffer("privileged_low", ranges[:, 0], persistent=False)
        self.register_buffer("privileged_high", ranges[:, 1], persistent=False)
        self.encoder = nn.Sequential(
            nn.Linear(len(ranges), config.hidden),
            nn.ReLU(),
            nn.Linear(config.hidden, config.encoding),
        )
        self.adaptation = Adaptation(spec, config.hidden, config.encoding)

    @property
    def extras(self) -> tuple[str, ...]:  # type: ignore[override]
        """An adapted policy can go on learning from data of a real robot, which knows nothing."""
        return (PRIVILEGED,) if self._adapting or not bool(self.adapted) else ()

    def parameter_roles(self) -> dict[str, Role]:
        # which numbers are hidden, and how they show, is of this robot alone
        named = {
            "encoder": STATE_INPUT,
            "adaptation": STATE_INPUT | ACTION_INPUT,
            "adapted": STATISTICS,
        }
        roles = super().parameter_roles() | roles_of(self, named)
        for name, role in self.base.parameter_roles().items():
            roles[f"base.{name}"] = role
        return roles

    def use_tokenizer(self, tokenizer: Any) -> None:
        super().use_tokenizer(tokenizer)
        self.base.use_tokenizer(tokenizer)

    def begin_adaptation(self) -> None:
        """From now on the context is inferred, and the adaptation module alone learns."""
        self.adapted.fill_(True)
        self._adapting = True
        self.requires_grad_(False)
        self.adaptation.requires_grad_(True)

    # --- forward and control ----------------------------------------------------------------------

    def forward(self, batch: Batch) -> PolicyOutput:
        """Output for every step; in stage `adapted` a step's context is that of the steps of its
        window up to it.

        Raises ContextError if stage `base` finds no privileged numbers in the batch.
        """
        context_BTZ = self.inferred(batch) if bool(self.adapted) else self.encoded(batch)
        # the base policy has statistics of nothing: it reads numbers of about unit size already
        state_BTS = torch.cat([self.normalised_state(batch.state), context_BTZ], -1)
        output: PolicyOutput = self.base(dataclasses.replace(batch, state=state_BTS))
        return output

    def encoded(self, batch: Batch) -> Float[Tensor, "B T Z"]:
        """The context of the privileged numbers. Raises ContextError if there are none."""
        if PRIVILEGED not in batch.extras:
            raise ContextError(_missing("the data have no column `privileged`"))
        privileged = batch.extras[PRIVILEGED]
        # a column of one number per step has no axis of its own
        return self._encode(privileged[..., None] if privileged.ndim == 2 else privileged)

    def inferred(self, batch: Batch) -> Float[Tensor, "B T Z"]:
        """The context by the steps of the window, each step's own action left out."""
        unit_BTA = self._unit(batch.actions[:, :, 0])
        state_BTS = self.normalised_state(batch.state)
        context_BTZ: Tensor = self.adaptation(state_BTS, unit_BTA, batch.mask)
        return context_BTZ

    def adaptation_loss(self, batch: Batch) -> Float[Tensor, "B T"]:
        """Squared error of the inferred context, mean over its numbers (RMA, equation 5)."""
        with torch.no_grad():
            truth_BTZ = self.encoded(batch)
        return (self.inferred(batch) - truth_BTZ).square().mean(-1)

    def step(
        self, observation: Observation, memory: AdaptiveMemory | None
    ) -> tuple[PolicyOutput, AdaptiveMemory]:
        """Equal to `forward` over the robot's last `history` steps.

        Raises ContextError if stage `base` is not given the privileged numbers.
        """
        state_B1S = self.normalised_state(observation.state)[:, None]
        nothing_B1A = state_B1S.new_zeros(*state_B1S.shape[:2], self.spec.action_dim)
        new = {"state": state_B1S, "action": nothing_B1A}
        ages = (0,) * len(observation.instruction)
        if memory is not None:
            ages = memory.ages
            new = {name: torch.cat([memory.steps[name], new[name]], 1) for name in new}
        if bool(self.adapted):
            n = new["state"].shape[1]
            mask_Bn = age_mask(ages, n)
            if mask_Bn is None:
                mask_Bn = torch.ones(len(ages), n, dtype=torch.bool)
            context_BnZ = self.adaptation(new["state"], new["action"], mask_Bn.to(self.device))
            context_BZ = context_BnZ[:, -1]
        elif observation.privileged is None:
            raise ContextError(_missing("the env does not tell them"))
        else:
            context_BZ = self._encode(observation.privileged.to(self.device))
        inside = dataclasses.replace(
            observation, state=torch.cat([state_B1S[:, 0], context_BZ], -1)
        )
        output, base = self.base.step(inside, None if memory is None else memory.base)
        kept = self.history - 1
        steps = {name: values[:, -kept:] for name, values in new.items()}
        return output, AdaptiveMemory(steps, tuple(min(age + 1, kept) for age in ages), base)

    def remember(self, memory: AdaptiveMemory, actions: Float[Tensor, "B K A"]) -> AdaptiveMemory:
        """The first action of each chunk is what is done now."""
        # a memory is a value: whoever holds the old one still has what it was
        past = memory.steps["action"].clone()
        past[:, -1] = self._unit(actions[:, 0].to(past.device))
        return dataclasses.replace(memory, steps={**memory.steps, "action": past})

    def _encode(self, privileged: Float[Tensor, "... D"]) -> Float[Tensor, "... Z"]:
        span = self.privileged_high - self.privileged_low
        unit: Tensor = 2 * (privileged.float() - self.privileged_low) / span - 1
        found: Tensor = self.encoder(unit)
        return found

    def _unit(self, actions: Float[Tensor, "... A"]) -> Float[Tensor, "... A"]:
        return 2 * (actions - self.action_low) / (self.action_high - self.action_low) - 1


class Adaptation(nn.Module):
    """The last states and actions -> the context: a recurrent network that goes over the window
    from its first step to its last."""

    def __init__(self, spec: Spec, hidden: int, encoding: int) -> None:
        super().__init__()
        self.cell = nn.GRUCell(2 * spec.state_dim + spec.action_dim, hidden)
        self.out = nn.Linear(hidden, encoding)

    def forward(
        self,
        state_BTS: Float[Tensor, "B T S"],
        action_BTA: Float[Tensor, "B T A"],
        mask_BT: Bool[Tensor, "B T"],
    ) -> Float[Tensor, "B T Z"]:
        """The context after each step's state and the actions of the steps before it.

        mask_BT: False at padded steps, which stand on the left.
        """
        # what was done before the window is not known, also where the robot did something
        before_B1A = torch.zeros_like(action_BTA[:, :1])
        known_BT1 = mask_BT[:, :-1, None]
        past_BTA = torch.cat([before_B1A, action_BTA[:, :-1].where(known_BT1, 0.0)], 1)
        # what an action has changed says most of the world, and a network finds it late by itself:
        # it is the small difference of two large numbers
        change_BTS = state_BTS.diff(dim=1).where(known_BT1, 0.0)
        change_BTS = torch.cat([torch.zeros_like(state_BTS[:, :1]), change_BTS], 1)
        inputs_BTI = torch.cat([state_BTS, change_BTS, past_BTA], -1)
        h_BH = inputs_BTI.new_zeros(len(inputs_BTI), self.cell.hidden_size)
        found = []
        for t in range(inputs_BTI.shape[1]):
            next_BH = self.cell(inputs_BTI[:, t], h_BH)
            # padding leaves no trace: a window that begins late is an episode that is young
            h_BH = torch.where(mask_BT[:, t, None], next_BH, h_BH)
            found.append(h_BH)
        contexts: Tensor = self.out(torch.stack(found, 1))
        return contexts


def _missing(what: str) -> str:
    return (
        f"a policy of type adaptive in stage base needs the hidden numbers of the world, and "
        f"{what}; record or play an env that tells them (`SimEnv.privileged`), or train the second "
        "stage with objective={type: adaptation}"
    )


__all__ = ["AdaptiveConfig", "AdaptiveMemory", "AdaptivePolicy", "ContextError"]
