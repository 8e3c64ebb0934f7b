"""When to stop conservative Q-learning, judged by its curves alone.

Kumar et al., 2021, "A workflow for offline model-free robotic reinforcement learning": Q of the
data's actions first rises, as values spread from the rewards, and falls once the critic remembers
single transitions and presses everything else down. The best policy is near the peak. If Q never
falls, the critic has not overfitted; if actions that nobody tried keep looking as good as those of
the data, it is underfitted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Reason = Literal["q_falls", "held_out_falls", "no_fall", "too_short"]
_LEAST_POINTS = 5


@dataclass(frozen=True)
class StopAdvice:
    """Which step to take, and why.

    Attributes:
        step: of the curve's peak; the last step if nothing speaks for an earlier one; None if the
            curves are too short.
        reason: q_falls (overfitted: Q of the training data has passed its peak), held_out_falls
            (overfitted: held-out Q falls while that of the training data still rises), no_fall or
            too_short.
        underfitted: whether sampled actions still look better than the data's at that step, if that
            is known.
        text: the same in words, with the numbers.
    """

    step: int | None
    reason: Reason
    underfitted: bool | None
    text: str


class _Signal(NamedTuple):
    """A sign of overfitting: the step that it speaks for, and why."""

    step: int
    reason: Reason
    why: str


def advise_stop(
    lines: Sequence[Mapping[str, float]],
    *,
    smooth: int = 5,
    fall: float = 0.1,
) -> StopAdvice:
    """The step to stop at.

    Args:
        lines: of metrics.jsonl, each with `step`; read are `q_data`, `validation/q_data` and
            `conservative_gap`.
        smooth: how many neighbouring points the training curve is averaged over; held-out scores
            are taken as they are.
        fall: share of a curve's range that it must have fallen from its peak by its end, to be no
            noise.

    Raises:
        ValueError: `smooth` is below 1 or `fall` outside (0, 1).
    """
    if smooth < 1 or not 0 < fall < 1:
        raise ValueError(
            f"smooth is {smooth} and fall is {fall}; expected at least 1, and a number between 0 "
            "and 1"
        )
    training = _curve(lines, "q_data", smooth)
    if training is None:
        count = sum("q_data" in line for line in lines)
        text = f"{count} values of q_data; at least {_LEAST_POINTS} tell a peak"
        return StopAdvice(None, "too_short", None, text)
    # scores are already means over many windows, and there are few of them: no smoothing
    held_out = _curve(lines, "validation/q_data", 1)
    signals = _signals(training, held_out, fall)
    never = _Signal(training.last_step, "no_fall", "Q of the data never fell")
    # the earliest sign counts: what comes after it is overfitted already
    step, reason, why = min(signals, key=lambda signal: signal.step, default=never)
    # at the step that is advised, not at the end, where the critic presses everything down
    gap = _curve(lines, "conservative_gap", smooth)
    underfitted = None if gap is None else gap.at(step) > 0
    advice = f"stop at step {step}: {why}"
    if reason == "no_fall":
        advice = (
            f"{why}: nothing speaks against step {step}, the last, and longer training may help"
        )
    if gap is not None and underfitted:
        advice += (
            "; sampled actions look better than the data's there (conservative_gap "
            f"{gap.at(step):.4g}): a greater alpha or larger critics may help"
        )
    return StopAdvice(step, reason, underfitted, advice)


def _signals(
    training: _Curve,
    held_out: _Curve | None,
    fall: float,
) -> list[_Signal]:
    """What speaks for an earlier step than the last."""
    signals = []
    peak = training.fallen_from(fall)
    if peak is not None:
        top = f"{training.at(peak):.4g}"
        why = f"Q of the data rose to {top} and fell to {training.last:.4g}"
        signals.append(_Signal(peak, "q_falls", why))
    held_out_peak = None if held_out is None else held_out.fallen_from(fall)
    if held_out is None or held_out_peak is None:
        return signals
    # only if the training curve still rises from there: if both fall, its own signal says so
    if training.last >= training.at(held_out_peak):
        top = f"{held_out.at(held_out_peak):.4g}"
        why = (
            f"held-out Q fell from {top} to {held_out.last:.4g} while that of the training data "
            f"went from {training.at(held_out_peak):.4g} to {training.last:.4g}"
        )
        signals.append(_Signal(held_out_peak, "held_out_falls", why))
    return signals


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
        """The step of the peak, if the curve ends lower by more than this share of its range.

        A curve that only falls has no peak: the rise from which it fell was not seen, or there was
        none.
        """
        peak, span = int(self.values.argmax()), float(np.ptp(self.values))
        if peak == 0 or self.values[peak] - self.last <= share * span:
            return None
        return int(self.steps[peak])


def _curve(
    lines: Sequence[Mapping[str, float]],
    name: str,
    smooth: int,
) -> _Curve | None:
    """A smoothed curve, each point the mean of its neighbours; None if there are too few points."""
    # losses and scores stand in lines of their own: not every line has every name
    found = [line for line in lines if name in line and "step" in line]
    points = sorted((int(line["step"]), float(line[name])) for line in found)
    if len(points) < _LEAST_POINTS:
        return None
    values = np.array([value for _, value in points])
    # a symmetric window, cut at both ends: it moves no peak to the side
    half = (min(smooth, len(values)) - 1) // 2
    means = [values[max(0, i - half) : i + half + 1].mean() for i in range(len(values))]
    return _Curve(np.array([step for step, _ in points]), np.array(means))


__all__ = ["StopAdvice", "advise_stop"]
