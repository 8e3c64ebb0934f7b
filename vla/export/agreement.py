"""How far an exported policy is from the policy itself, step by step from an episode's start.

B robots, N tokens of a chunk, V ids, K actions per chunk, A action dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vla.export.runtime import ExportedPolicy
from vla.models.policy import Policy
from vla.types import Observation

NEAR_TIE = 1e-4
"""Two logits that are nearer are a tie up to rounding: then another token is no mistake."""
LEAST_EQUAL = 0.999
"""Of the tokens, in float32."""
LARGEST_DIFFERENCE = 1e-3
"""Between actions that do not come from tokens, as a share of their range."""


@dataclass
class Agreement:
    """What was found over some steps.

    Attributes:
        steps: of single robots.
        tokens: compared; 0 if the policy's head has none.
        unequal: tokens that differ.
        unexplained: those of them that were no near tie.
        action_difference: the greatest, as a share of the action dimension's range.
        logit_difference: the greatest; None if the head has no logits of all tokens at once.
    """

    steps: int = 0
    tokens: int = 0
    unequal: int = 0
    unexplained: int = 0
    action_difference: float = 0.0
    logit_difference: float | None = None

    @property
    def token_agreement(self) -> float | None:
        """Share of the tokens that are equal; None if there are none."""
        return 1 - self.unequal / self.tokens if self.tokens else None

    @property
    def is_exact(self) -> bool:
        """Whether what differs is what rounding of float32 explains."""
        if self.tokens:
            return self.unexplained == 0 and self.unequal <= (1 - LEAST_EQUAL) * self.tokens
        return self.action_difference <= LARGEST_DIFFERENCE

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "steps": self.steps,
            "tokens": self.tokens,
            "token_agreement": self.token_agreement,
            "unequal_but_no_near_tie": self.unexplained,
            "largest_action_difference_of_range": self.action_difference,
            "largest_logit_difference": self.logit_difference,
        }


class SideBySide:
    """Policy and graph acting for the same robots, each with a memory of its own.

    Args:
        agreement: to which steps are added; a new one by default.
    """

    def __init__(
        self, policy: Policy, exported: ExportedPolicy, agreement: Agreement | None = None
    ) -> None:
        self.policy = policy
        self.exported = exported
        self.agreement = agreement or Agreement()
        self._memory: Any = None
        self._exported_memory: Any = None

    @torch.no_grad()
    def step(self, observation: Observation) -> None:
        """Both act once; what differs is noted."""
        found = self.agreement
        output, _ = self.policy.step(observation, self._memory)
        logits = _logits(output.actions)
        if logits is not None:
            feeds = self.exported.feeds(observation, self._exported_memory)
            other = torch.from_numpy(self.exported.run(feeds, ["logits"])["logits"])
            self._note_logits(logits[:, -1].float(), other)
        actions, self._memory = self.policy.act(observation, self._memory)
        others, self._exported_memory = self.exported.act(observation, self._exported_memory)
        if logits is None and hasattr(output.actions, "tokens"):
            ids = self.policy.tokenizer.encode(actions)
            unequal = int((self.policy.tokenizer.encode(others) != ids).sum())
            found.tokens += ids.numel()
            found.unequal += unequal
            found.unexplained += unequal
        width_A = self.policy.action_high.cpu() - self.policy.action_low.cpu()
        difference = float(((actions - others).abs() / width_A).max())
        found.action_difference = max(found.action_difference, difference)
        found.steps += observation.batch_size

    def _note_logits(self, logits_BNV: Tensor, other_BNV: Tensor) -> None:
        found = self.agreement
        # ids that may not stand there are minus infinity on both sides
        possible = torch.isfinite(logits_BNV)
        difference = float((logits_BNV - other_BNV)[possible].abs().max())
        found.logit_difference = max(found.logit_difference or 0.0, difference)
        unequal_BN = logits_BNV.argmax(-1) != other_BNV.argmax(-1)
        best = logits_BNV.topk(min(2, logits_BNV.shape[-1]), dim=-1).values
        is_tie_BN = best[..., 0] - best[..., -1] < NEAR_TIE
        found.tokens += unequal_BN.numel()
        found.unequal += int(unequal_BN.sum())
        found.unexplained += int((unequal_BN & ~is_tie_BN).sum())


def agreement_on_noise(policy: Policy, exported: ExportedPolicy) -> Agreement:
    """Over episodes of noise: one robot, and three of which one is given another instruction."""
    found = Agreement()
    steps = policy.history + 2  # until the oldest steps have been forgotten
    texts = [*exported.instructions, "do the task", "do another task"][:2]
    for robots in (1, 3):
        sides = SideBySide(policy, exported, found)
        for number in range(2 * steps):
            observation = policy.spec.fake_observation(robots, seed=number)
            # the last robot alone goes over to the other text, with its past forgotten
            observation.instruction[:] = [texts[0]] * robots
            observation.instruction[-1] = texts[number // steps]
            sides.step(observation)
    return found


def _logits(actions: Any) -> Tensor | None:
    logits = getattr(actions, "logits", None)
    return logits if isinstance(logits, Tensor) else None


__all__ = ["Agreement", "SideBySide", "agreement_on_noise"]
