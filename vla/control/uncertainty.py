"""How sure a policy is of the chunk that it chose, from the distribution that it came from.

B robots, T steps, K actions per chunk, A action dimensions, N tokens per chunk, V ids, S draws.

Sources: entropy as a gate of human help in Zhang and Cho, 2017, "Query-efficient imitation learning
for end-to-end simulated driving", and Menda et al., 2019, "EnsembleDAgger", whose spread is that of
networks; here it is that of one policy's own draws.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from vla.config import UserError
from vla.control.settings import Measure
from vla.types import ActionDistribution, Spec, TokenDistribution

DRAWS = 8


def entropy(
    actions: ActionDistribution, chunk: Float[Tensor, "B T K A"], spec: Spec
) -> Float[Tensor, " B"]:
    """Mean entropy of the last step's tokens, given those of `chunk` before them, as a share of the
    greatest that a place can have: 0 (certain) to 1 (every id alike).

    Raises UserError if the distribution is none over tokens.
    """
    if not isinstance(actions, TokenDistribution):
        raise UserError(
            f"gate.measure: is 'entropy', but {type(actions).__name__} has no tokens: set "
            "gate.measure to spread"
        )
    logits_BNV = actions.token_logits(chunk)[:, -1].float()
    entropy_BN = torch.special.entr(logits_BNV.softmax(-1)).sum(-1)
    allowed_BN = torch.isfinite(logits_BNV).sum(-1)
    # a place where one id may stand is certain, and log(1) would divide by zero
    share_BN = entropy_BN / allowed_BN.clamp_min(2).log()
    every = torch.ones(chunk.shape[:-1], dtype=torch.bool, device=chunk.device)
    mask_BN = actions.token_mask(chunk, every)[:, -1]
    return (share_BN * mask_BN).sum(-1) / mask_BN.sum(-1).clamp_min(1)


def spread(
    actions: ActionDistribution, chunk: Float[Tensor, "B T K A"], spec: Spec
) -> Float[Tensor, " B"]:
    """Standard deviation of `DRAWS` random chunks of the last step, in units of half of each
    dimension's range, mean over the chunk: 0 (they agree) to 1."""
    # here, not above: a policy that has a distribution has loaded its own room already
    from vla.models.sampling import sample_many

    drawn_SBKA = sample_many(actions, DRAWS)[:, :, -1].float()
    half_A = (torch.tensor(spec.action_high) - torch.tensor(spec.action_low)) / 2
    deviation_BKA = drawn_SBKA.std(0, correction=0) / half_A.to(drawn_SBKA)
    return deviation_BKA.mean((-1, -2))


MEASURES: dict[Measure, Callable[[ActionDistribution, Tensor, Spec], Tensor]] = {
    "entropy": entropy,
    "spread": spread,
}


@dataclass
class MeasuredChoice:
    """What `act` is given to choose chunks as it would without, and to look at the distribution.

    Attributes:
        choose: who chooses.
        measure: what is looked at.
        spec: of the robot.
        found: (B,) of the last call; None before.
    """

    choose: Callable[[ActionDistribution], Tensor]
    measure: Measure
    spec: Spec
    found: Tensor | None = field(default=None, init=False)

    def __call__(self, actions: ActionDistribution) -> Float[Tensor, "B T K A"]:
        chunk = self.choose(actions)
        self.found = MEASURES[self.measure](actions, chunk, self.spec).cpu()
        return chunk


__all__ = ["MEASURES", "MeasuredChoice", "entropy", "spread"]
