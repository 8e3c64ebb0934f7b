"""Q-Transformer: RT-1's trunk with values of action tokens in place of their probabilities.

Chebotar et al. 2023, "Q-Transformer: Scalable Offline Reinforcement Learning via Autoregressive
Q-Functions". The trunk reads images, language and history as RT-1 does. A small transformer (the
head `q_values`) then goes through the tokens of the action, each a dimension in bins, and tells of
every bin how good it is after the bins chosen before. To act is to take the best bin at each place:
as many passes of the small transformer as there are tokens, one pass of the trunk.

    policy: {type: q_transformer}
    objective: {type: q_transformer}
    data: {path: ..., rewards: {kind: success}}

Rewards and returns must lie in [0, 1]. With chunks of K actions the K x A tokens are one decision
that takes K steps.

A trunk that has imitated before is a good start, a head that has is not: cross-entropy drives the
logits of what was done far up, in failures too, and values that begin near 1 sink slowly where
nothing ends the task. Pretrain with RT-1's own head.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from vla.config import Choice, register
from vla.models.heads.q_values import QValuesConfig
from vla.models.policies.rt1 import RT1, RT1Config
from vla.tokenizers.bins import BinsConfig
from vla.types import Spec


@register("policies", "q_transformer")
class QTransformerConfig(RT1Config):
    """RT-1 that chooses its action tokens by Q-values; trained by the objective q_transformer."""

    type: Literal["q_transformer"] = "q_transformer"  # type: ignore[assignment]
    tokenizer: Annotated[Any, Choice("tokenizers")] = BinsConfig(num_bins=64)
    """Action tokenizer. Fewer bins than RT-1's 256: a bin's value is learned from what was tried in
    it."""
    head: Annotated[Any, Choice("heads")] = QValuesConfig()
    """From what the transformer says to values of action tokens."""

    def build(self, spec: Spec, *, from_checkpoint: bool = False) -> QTransformer:
        """Raises SpecError if cameras and config do not fit, TrunkError if the trunk cannot be
        had."""
        return QTransformer(self, spec, from_checkpoint=from_checkpoint)


class QTransformer(RT1):
    """See the module's docstring. Built by `QTransformerConfig.build`, or read by `load_policy`."""

    config: QTransformerConfig


__all__ = ["QTransformer", "QTransformerConfig"]
