"""When to stop conservative Q-learning, told from its curves alone.

Kumar et al., 2021, "A workflow for offline model-free robotic reinforcement learning": Q of the data's actions first rises, as
values spread from the rewards, and falls once the critic remembers single transitions and presses everything else down.
The best policy is near the peak. Where Q never falls, the critic has not overfitted; where actions that nobody tried keep looking
as good as those of the data, it is underfitted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Reason = Literal["q_falls", "held_out_falls", "no_fall", "too_short"]
_LEAST_POINTS = 5


@dataclass(frozen=True)
class StopAdvice:
    """Which step to take, and why.

    Attributes:
        step: of the curve's peak; the last step where nothing speaks for an earlier one; None where the curves are too short.
        reason: q_falls (overfitted: Q of the training data has passed its peak), held_out_falls (overfitted: held-out Q falls
            while that of the training data still rises), no_fall or too_short.
        underfitted: whether sampled actions still look better than the data's at that step, where that is known.
        text: the same in words, with the numbers.
    """

    step: int | None
    reason: Reason
    underfitted: bool | None
    text: str


def advise_stop(
    lines: Sequence[Mapping[str, float]], *, smooth: int = 5, fall: float = 0.1
) -> StopAdvice:
    """The step to stop at.

    Args:
        lines: of metrics.jsonl, each with `step`; read are `q_data`, `validation/q_data` and `conservative_gap`.
        smooth: how many neighbouring points the training curve is averaged over; held-out scores are taken as they are.
        fall: share of a curve's range that it must have fallen from its peak by its end, to be no noise.

    Raises:
        ValueError: `smooth` is below 1 or `fall` outside (0, 1).
    """
    if smooth < 1 or not 0 < fall < 1:
        raise ValueError(
            f"smooth is {smooth} and fall is {fall}; expected at least 1, and a number between 0 and 1"
        )
    training = _curve(lines, "q_data", smooth)
    if training is None:
        count = sum("q_data" in line for line in lines)
        return StopAdvice(
            None,
            "too_short",
            None,
            f"{count} values of q_data; at least {_LEAST_POINTS} tell a peak",
        )
    held_out = _curve(lines, "validation/q_data", 1)
    signals: list[tuple[int, Reason, str]] = []
    if (peak := training.fallen_from(fall)) is not None:
        signals.append(
            (
                peak,
                "q_falls",
                f"Q of the data rose to {training.at(peak):.4g} and fell to {training.last:.4g}",
            )
        )
    if (
        held_out is not None
        and (peak := held_out.fallen_from(fall)) is not None
        and training.last >= training.at(peak)
    ):
        rise = f"that of the training data went from {training.at(peak):.4g} to {training.last:.4g}"
        signals.append(
            (
                peak,
                "held_out_falls",
                f"held-out Q fell from {held_out.at(peak):.4g} to {held_out.last:.4g} while {rise}",
            )
        )
    step, reason, why = min(
        signals,
        key=lambda signal: signal[0],
        default=(training.last_step, "no_fall", "Q of the data never fell"),
    )
    gap = _curve(lines, "conservative_gap", smooth)
    underfitted = None if gap is None else gap.at(step) > 0
    advice = f"stop at step {step}: {why}"
    if reason == "no_fall":
        advice = (
            f"{why}: nothing speaks against step {step}, the last, and longer training may help"
        )
    if underfitted and gap is not None:
        advice += (
            f"; sampled actions look better than the data's there (conservative_gap {gap.at(step):.4g}): "
            "a greater alpha or larger critics may help"
        )
    return StopAdvice(step, reason, underfitted, advice)


@dataclass(frozen=True)
class _Curve:
    steps: NDArray[np.int64]
    values: NDArray[np.float64]

    @property
    def last(self) -> float:
        return float(self.values[-1])

    @property
    def last_step(self) -> int:
        return int(self.steps[-1])

    def at(self, step: int) -> float:
        """The value at the nearest step."""
        return float(self.values[np.abs(self.steps - step).argmin()])

    def fallen_from(self, share: float) -> int | None:
        """The step of the peak, where the curve ends lower by more than this share of its range; else None.

        A curve that only falls has no peak: the rise from which it fell was not seen, or there was none.
        """
        peak, span = int(self.values.argmax()), float(np.ptp(self.values))
        if peak == 0 or self.values[peak] - self.last <= share * span:
            return None
        return int(self.steps[peak])


def _curve(lines: Sequence[Mapping[str, float]], name: str, smooth: int) -> _Curve | None:
    """A smoothed curve, each point the mean of its neighbours; None where there are too few points."""
    points = sorted(
        (int(line["step"]), float(line[name])) for line in lines if name in line and "step" in line
    )
    if len(points) < _LEAST_POINTS:
        return None
    values = np.array([value for _, value in points])
    half = (min(smooth, len(values)) - 1) // 2
    means = [values[max(0, i - half) : i + half + 1].mean() for i in range(len(values))]
    return _Curve(np.array([step for step, _ in points]), np.array(means))


__all__ = ["StopAdvice", "advise_stop"]
