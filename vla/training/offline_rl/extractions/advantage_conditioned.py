"""Imitation of all actions by a policy that reads whether an action was better than usual.

B windows, T steps, K actions per chunk, A action dimensions, N windows that are asked with an
indicator.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from torch import Tensor

from vla.config import register
from vla.models.indicator import with_indicator
from vla.models.policies.conditioned import ConditionedConfig, ConditionedPolicy, extrapolated
from vla.models.policy import Policy
from vla.training.losses import Metrics, masked_mean, masked_means
from vla.training.objective import ObjectiveError
from vla.training.offline_rl.extractions.base import Extraction, ExtractionConfig, imitation
from vla.training.offline_rl.running_quantile import TaskQuantiles
from vla.training.offline_rl.values.base import Transition, ValueLearner
from vla.training.offline_rl.values.none import NoValues
from vla.types import Batch, PolicyOutput

Share = Annotated[float, Field(gt=0, lt=1)]


@register("extractions", "advantage_conditioned")
class AdvantageConditionedConfig(ExtractionConfig):
    """Imitates every action, with an indicator of whether it was better than usual; acts with the
    indicator `positive`.

    Nothing is thrown away and nothing weighted: bad actions teach what `negative` means. Formula,
    with the advantage A of the value part, and e the quantile of A above which `positive_share` of
    a task's steps lie:

        I_t = positive if A(s_t, a_t) > e(task), else negative
        L = mean over B, T of -log pi(a | s, I), or -log pi(a | s) in a share `dropout` of windows
        act: pi(a | s) (pi(a | s, positive) / pi(a | s))^guidance, normalised

    A window is asked with one indicator, as in control, that of a step drawn from it. Only the
    steps with this indicator count; they weigh T / (number of them), so that in the mean every step
    of the data has the same weight.

    Shapes: A and I are (B, T), e is (B,), a is (B, T, K, A).

    Source: RECAP; Physical Intelligence, 2025, "pi*0.6: a VLA that learns from experience",
    arXiv:2511.14759, eq. 3 and section IV-B; guidance: Ho and Salimans, 2022, "Classifier-free
    diffusion guidance".
    """

    type: Literal["advantage_conditioned"] = "advantage_conditioned"
    positive_share: Share = 0.3
    """Share of each task's steps that are called positive."""
    per_task: bool = True
    """Find the threshold for each task; false finds one for all, which calls easy tasks good."""
    dropout: float = Field(default=0.3, ge=0, lt=1)
    """Share of the windows that are imitated without an indicator: what `guidance` leads away
    from."""
    guidance: float = Field(default=1.0, ge=0)
    """Of control: 1 acts as the data's positive actions, more goes further from the usual ones, 0
    acts without an indicator. Any number but 1 asks the policy twice at each step."""

    @model_validator(mode="after")
    def _plain_policy_is_trained(self) -> AdvantageConditionedConfig:
        if self.guidance != 1 and self.dropout == 0:
            raise ValueError(
                f"guidance: {self.guidance:g} compares with the policy without an indicator, which "
                "dropout: 0 never trains; set dropout: 0.3, or guidance: 1"
            )
        return self

    def build(self, policy: Policy, value: ValueLearner) -> AdvantageConditioned:
        """Raises ObjectiveError if there are no advantages, or the policy reads no indicator."""
        if isinstance(value, NoValues):
            raise ObjectiveError(
                "objective.extraction: advantage_conditioned without values knows no better "
                "actions; use value: {type: monte_carlo}, or extraction: {type: bc}"
            )
        if not policy.config.indicator:
            raise ObjectiveError(
                "objective.extraction: advantage_conditioned needs a policy that reads an "
                "indicator; set policy.indicator: true (with init_from: also transfer: {})"
            )
        return AdvantageConditioned(self)


class AdvantageConditioned(Extraction):
    """See the config."""

    def __init__(self, config: AdvantageConditionedConfig) -> None:
        super().__init__()
        self.config = config
        self.thresholds = TaskQuantiles(config.positive_share, per_task=config.per_task)

    def loss(self, now: Transition, value: ValueLearner) -> tuple[Tensor, Metrics]:
        raise TypeError("advantage_conditioned asks the policy itself: call policy_loss")

    def policy_loss(
        self, policy: Policy, now: Transition, value: ValueLearner
    ) -> tuple[Tensor, Metrics]:
        batch = now.batch
        mask_BT = batch.mask
        if self.config.guidance != 1:
            # now, though only acting needs it: a run should not end before it says so
            extrapolated(now.actions, now.actions, self.config.guidance)
        advantage_BT = value.advantage(now)
        if self.training:
            self.thresholds.update(advantage_BT, mask_BT, batch.instruction)
        threshold_B = self.thresholds.of(batch.instruction)
        positive_BT = advantage_BT > threshold_B[:, None]
        # values read the features of the plain pass: those of a window with an indicator would
        # hold the answer
        plain_BT = imitation(now)
        asked_B = torch.rand(len(mask_BT)) >= self.config.dropout
        rows_N = asked_B.nonzero().flatten().numpy()
        imitated_BT = plain_BT
        if len(rows_N):
            asked_BT = self._asked(policy, batch, positive_BT, rows_N)
            imitated_BT = asked_BT.where(asked_B.to(mask_BT.device)[:, None], plain_BT)
        loss = masked_mean(imitated_BT, mask_BT) + _zero(policy)
        columns = {
            "bc_loss": imitated_BT.detach(),
            "bc_loss_plain": plain_BT.detach(),
            "advantage": advantage_BT,
            "positive_share": positive_BT.float(),
            "threshold": threshold_B[:, None].expand_as(mask_BT),
        }
        return loss, masked_means(columns, mask_BT)

    def _asked(
        self,
        policy: Policy,
        batch: Batch,
        positive_BT: Bool[Tensor, "B T"],
        rows_N: np.ndarray,
    ) -> Float[Tensor, "B T"]:
        """The weighted loss of the windows `rows_N`, each asked with one indicator; else 0."""
        rows = torch.from_numpy(rows_N).to(batch.mask.device)
        mask_NT = batch.mask[rows]
        kind_NT = positive_BT[rows]
        # one valid step of each window; a window of padding alone draws any
        drawn_N1 = torch.multinomial(mask_NT.float() + 1e-9, 1)
        kind_N1 = kind_NT.gather(1, drawn_N1)
        counted_NT = (kind_NT == kind_N1) & mask_NT
        weight_N1 = mask_NT.sum(1, keepdim=True) / counted_NT.sum(1, keepdim=True).clamp(min=1)
        chosen = batch.select(rows_N)
        texts = []
        for text, positive in zip(chosen.instruction, kind_N1.flatten().tolist(), strict=True):
            texts += with_indicator([text], "positive" if positive else "negative")
        output: PolicyOutput = policy(dataclasses.replace(chosen, instruction=texts))
        loss_NT = output.actions.loss(chosen.actions, chosen.action_mask)
        weighted_NT = (weight_N1 * loss_NT).where(counted_NT, 0.0)
        zeros_BT = weighted_NT.new_zeros(batch.mask.shape)
        return zeros_BT.index_copy(0, rows, weighted_NT)

    def deploy(self, policy: Policy, value: ValueLearner) -> Policy:
        config = ConditionedConfig(policy=policy.config, guidance=self.config.guidance)
        return ConditionedPolicy(config, policy).train(policy.training)


def _zero(policy: Policy) -> Tensor | float:
    """0 with a gradient for the indicators' vectors.

    Distributed training waits for a gradient of every parameter, and in some batches no window is
    asked with an indicator.
    """
    embedding = getattr(policy, "indicator", None)
    return 0.0 if embedding is None else 0.0 * embedding.weight.sum()


__all__ = ["AdvantageConditioned", "AdvantageConditionedConfig"]
