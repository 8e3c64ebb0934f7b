"""Cal-QL (Nakamoto et al., 2023, "Cal-QL: calibrated offline RL pre-training for efficient online fine-tuning")."""

from __future__ import annotations

from typing import Literal

from vla.config import register
from vla.training.objectives.cql import CQLConfig


@register("objectives", "cal_ql")
class CalQLConfig(CQLConfig):
    """CQL that presses no action of the policy below what the data's episodes brought: its values keep their size."""

    type: Literal["cal_ql"] = "cal_ql"  # type: ignore[assignment]

    @property
    def calibrated(self) -> bool:
        return True


__all__ = ["CalQLConfig"]
