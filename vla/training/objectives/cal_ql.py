"""Cal-QL (Nakamoto et al., 2023)."""

from __future__ import annotations

from typing import Literal

from vla.config import register
from vla.training.objectives.cql import CQLConfig, NextActions


@register("objectives", "cal_ql")
class CalQLConfig(CQLConfig):
    """CQL that presses no action of the policy below the returns of the data's episodes.

    Its values keep their size, so that what continues online need not unlearn them. Formula: that
    of `cql`, with max(Q(s, a_i), R) in place of Q(s, a_i) for the policy's actions a_i, where R is
    the return that the data's episode had from s on. Shapes as of `conservative`.

    Source: Nakamoto et al., 2023, "Cal-QL: calibrated offline RL pre-training for efficient online
    fine-tuning"; the greatest of several next actions as in its published code.
    """

    # mypy: the name is another one than that of the base, which is what registering needs
    type: Literal["cal_ql"] = "cal_ql"  # type: ignore[assignment]
    next_actions: NextActions = "max"
    """What acts at the next state: of `sampled` actions of the policy the one of greatest target Q,
    one sample of the `policy`, or its most likely action (`mode`)."""

    @property
    def calibrated(self) -> bool:
        return True


__all__ = ["CalQLConfig"]
