"""Results of fitted Q evaluation: estimates, their order, and how it agrees with known success
rates."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vla.common.atomic import atomic_path
from vla.training.offline_evaluation.calibration import Calibration, rank_correlation

RESULT_FILE = "fqe.json"


@dataclass(frozen=True)
class PolicyEstimate:
    """One policy. Values are in units of the (shaped, discounted) rewards.

    Attributes:
        policy: folder of its checkpoint.
        value: mean Q of its own action at the first steps of the episodes, over the ensemble's
            members.
        interval: of `value` at 95 %, over episodes alone: errors of the critics are not in it.
        member_spread: standard deviation of the members' values (0 for one member).
        drift: how far `value` moved in the last tenth of the steps; if that is much, take more
            steps.
        q_data: mean Q of the data's actions over all frames.
        q_policy: mean Q of the policy's actions over all frames.
        td_error: root mean square of r + discount * Q(next, policy) - Q(data) on held-out frames.
        action_error: mean absolute difference of its actions from the data's on held-out frames,
            robot units.
        calibration: Q of the data's actions against the returns of the same held-out episodes. They
            are the data's returns: of a policy much unlike the data a calibrated Q differs from
            them.
        success: success rate in simulation, if one is known.
    """

    policy: str
    value: float
    interval: tuple[float, float]
    member_spread: float
    drift: float
    q_data: float
    q_policy: float
    td_error: float
    action_error: float
    calibration: Calibration
    success: float | None = None


def rank(estimates: Iterable[PolicyEstimate]) -> list[PolicyEstimate]:
    """Best first; equal values stay in the order given."""
    return sorted(estimates, key=lambda estimate: -estimate.value)


@dataclass(frozen=True)
class FQEResult:
    """Estimates of several policies on one dataset.

    Attributes:
        estimates: in the order of the config.
        data_value: mean discounted return of the episodes themselves: the value of the behaviour
            that made the data.
        episodes, held_out, frames: how many were used.
        seconds: of wall time, by part.
        config: as plain JSON types.
        warnings: what is odd in the dataset.
    """

    estimates: tuple[PolicyEstimate, ...]
    data_value: float
    episodes: int
    held_out: int
    frames: int
    seconds: Mapping[str, float] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def best(self) -> PolicyEstimate:
        return rank(self.estimates)[0]

    @property
    def rank_correlation(self) -> float | None:
        """Spearman's, of estimates and success rates, over the policies with both.

        None if fewer than three have both.
        """
        known = self._with_success()
        values = [estimate.value for estimate in known]
        return rank_correlation(values, self._success_rates())

    @property
    def action_error_correlation(self) -> float | None:
        """The same of (minus) the held-out action error: what the estimates have to beat."""
        known = self._with_success()
        # with a minus: a smaller error is to mean a better policy
        scores = [-estimate.action_error for estimate in known]
        return rank_correlation(scores, self._success_rates())

    def _with_success(self) -> list[PolicyEstimate]:
        return [estimate for estimate in self.estimates if estimate.success is not None]

    def _success_rates(self) -> list[float]:
        """Of `_with_success`, in its order."""
        return [e.success for e in self.estimates if e.success is not None]

    def to_dict(self) -> dict[str, Any]:
        """What `fqe.json` holds."""
        return {
            # in the order of the config; `ranking` has them best first
            "estimates": [asdict(e) for e in self.estimates],
            "ranking": [e.policy for e in rank(self.estimates)],
            "rank_correlation": self.rank_correlation,
            "action_error_correlation": self.action_error_correlation,
            "data_value": self.data_value,
            "episodes": self.episodes,
            "held_out": self.held_out,
            "frames": self.frames,
            "seconds": dict(self.seconds),
            "config": dict(self.config),
            "warnings": list(self.warnings),
        }

    def save(self, folder: str | Path) -> Path:
        """Writes fqe.json at once; returns its path."""
        path = Path(folder) / RESULT_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        # replaced, not written in place: a kill leaves the former result or the new one, never half
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(self.to_dict(), indent=2) + "\n")
        return path

    def table(self) -> Any:
        """A rich table for the terminal, best first."""
        # rich is slow to import, and who reads fqe.json needs none
        from vla.common.printing.tables import Table, whole

        columns: list[Any] = [
            *whole("policy", "value"),
            "95 % interval",
            "Q data",
            "Q policy",
            "TD error",
            "action error",
            "calibration",
        ]
        # a column of its own only if there is something to show in it
        any_success = bool(self._with_success())
        if any_success:
            columns.append("success")
        table = Table(*columns, caption=self._caption())
        for estimate in rank(self.estimates):
            cells = _cells(estimate)
            if any_success:
                cells.append("" if estimate.success is None else f"{estimate.success:.2f}")
            table.add_row(*cells)
        return table

    def _caption(self) -> str:
        text = (
            f"{self.episodes} episodes ({self.held_out} held out), {self.frames} frames; return of "
            f"the data {self.data_value:.3g}"
        )
        if self.rank_correlation is not None:
            text += f"; rank correlation with success {self.rank_correlation:.2f}"
            if self.action_error_correlation is not None:
                text += f" (by action error {self.action_error_correlation:.2f})"
        return text


def _cells(estimate: PolicyEstimate) -> list[str]:
    """A row of the table, without the success rate."""
    low, high = estimate.interval
    calibration = estimate.calibration
    return [
        estimate.policy,
        _number(estimate.value),
        f"{_number(low)} to {_number(high)}",
        _number(estimate.q_data),
        _number(estimate.q_policy),
        _number(estimate.td_error),
        _number(estimate.action_error),
        f"slope {calibration.slope:.2f}, r {calibration.correlation:.2f}",
    ]


def _number(value: float) -> str:
    return f"{value:.3g}"


__all__ = ["RESULT_FILE", "FQEResult", "PolicyEstimate", "rank"]
