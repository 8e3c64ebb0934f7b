"""What a risk network is worth, on episodes that it has not learned from.

N steps, E episodes.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from vla.models.rewards.labelled import LabelledSteps
from vla.models.rewards.risk import RiskLabels, RiskModel
from vla.models.rewards.scoring import score_steps

BINS = 10
"""Of the reliability table, equally wide (Guo et al., 2017, "On calibration of modern neural
networks", section 2)."""


def auc(positive: np.ndarray, negative: np.ndarray) -> float:
    """The chance that one of `positive` is greater than one of `negative`; ties count half.

    NaN if there are none of a kind.
    """
    if not len(positive) or not len(negative):
        return float("nan")
    from scipy.stats import rankdata  # a second of imports

    ranks = rankdata(np.concatenate([positive, negative]))
    # Mann and Whitney's statistic: ranks above the least that they could have
    above = ranks[: len(positive)].sum() - len(positive) * (len(positive) + 1) / 2
    return float(above / (len(positive) * len(negative)))


def measure_risk(
    model: RiskModel, steps: LabelledSteps, *, false_alarms: float
) -> dict[str, float]:
    """The numbers by which risk networks are compared; the model gets its `threshold`.

    Args:
        steps: of held-out episodes. Every second one chooses the threshold, the others report what
            hangs on it.
        false_alarms: share of the safe steps that may lie above the threshold.

    Returns:
        As far as the data can tell:
        `auc` (of steps before a failure against safe ones), `episode_auc` (of episodes by their
        greatest risk before they failed), `positive_rate`, `brier`,
        `expected_calibration_error`, `threshold`, `caught` (share of failed episodes with a risk
        above the threshold before they failed), `warned` (mean seconds from the first of those to
        the failure), `false_alarms` (share of safe steps above the threshold), and for each bin
        of the reliability table that holds steps `reliability/LOW-HIGH/steps`, `/predicted` and
        `/observed` (means of the risk and of whether a failure followed).
    """
    labels = model.labels(steps)
    risk_N = score_steps(model, steps).scores.astype(np.float64)
    ahead_N, known_N = labels.ahead, labels.known
    measures = {
        "auc": auc(risk_N[ahead_N & known_N], risk_N[~ahead_N & known_N]),
        "episode_auc": _episode_auc(steps, labels, risk_N),
    }
    measures |= calibration(risk_N[known_N], ahead_N[known_N])
    chooses_N = (steps.episode_of % 2 == 0) & known_N & ~ahead_N
    threshold = _threshold(risk_N[chooses_N], false_alarms)
    model.threshold.fill_(threshold)
    # what is stored is float32, and compared with below
    measures |= _at_threshold(model, steps, labels, risk_N, float(model.threshold))
    return measures


def calibration(
    predicted: Float[np.ndarray, " N"], observed: Bool[np.ndarray, " N"]
) -> dict[str, float]:
    """`positive_rate`, `brier`, `expected_calibration_error` and the reliability table.

    The expected calibration error is the mean over the steps of |predicted - observed| of their
    bin (Guo et al., 2017, equation 3).
    """
    if not len(predicted):
        return {}
    found = {
        "positive_rate": float(observed.mean()),
        "brier": float(np.square(predicted - observed).mean()),
        "expected_calibration_error": 0.0,
    }
    bin_N = np.minimum((predicted * BINS).astype(int), BINS - 1)
    for number in range(BINS):
        inside = bin_N == number
        if not inside.any():
            continue
        mean_predicted = float(predicted[inside].mean())
        mean_observed = float(observed[inside].mean())
        share = float(inside.mean())
        found["expected_calibration_error"] += share * abs(mean_predicted - mean_observed)
        name = f"reliability/{number / BINS:.1f}-{(number + 1) / BINS:.1f}"
        found[f"{name}/steps"] = int(inside.sum())
        found[f"{name}/predicted"] = mean_predicted
        found[f"{name}/observed"] = mean_observed
    return found


def _first_failures(steps: LabelledSteps, labels: RiskLabels) -> np.ndarray:
    """int (E,), place of each episode's first failure; its length where there is none."""
    firsts = []
    for start, length in zip(steps.starts.tolist(), steps.lengths.tolist(), strict=True):
        places = np.flatnonzero(labels.failed[start : start + length])
        firsts.append(int(places[0]) if len(places) else length)
    return np.array(firsts, np.int64)


def _episode_auc(steps: LabelledSteps, labels: RiskLabels, risk_N: np.ndarray) -> float:
    firsts = _first_failures(steps, labels)
    greatest = []
    for start, first, length in zip(steps.starts, firsts, steps.lengths, strict=True):
        # the failing action itself counts: its risk is known before it is executed
        greatest.append(risk_N[start : start + min(first + 1, length)].max())
    greatest_E = np.array(greatest)
    failed_E = firsts < steps.lengths
    return auc(greatest_E[failed_E], greatest_E[~failed_E])


def _threshold(safe: np.ndarray, false_alarms: float) -> float:
    """The least threshold above which lie at most that share of the risks of safe steps."""
    if not len(safe):
        return 0.5
    ordered = np.sort(safe)[::-1]
    allowed = int(false_alarms * len(ordered))
    if allowed >= len(ordered):
        return 0.0
    return float(np.nextafter(np.float32(ordered[allowed]), np.float32(2)))


def _at_threshold(
    model: RiskModel,
    steps: LabelledSteps,
    labels: RiskLabels,
    risk_N: np.ndarray,
    threshold: float,
) -> dict[str, float]:
    """What the other half of the episodes says of the threshold."""
    found = {"threshold": threshold}
    reported_N = steps.episode_of % 2 == 1
    safe_N = reported_N & labels.known & ~labels.ahead
    if safe_N.any():
        found["false_alarms"] = float((risk_N[safe_N] > threshold).mean())
    firsts = _first_failures(steps, labels)
    caught, warned = [], []
    for episode in np.flatnonzero(firsts < steps.lengths):
        if episode % 2 == 0:
            continue
        start, first = steps.starts[episode], firsts[episode]
        # alarms of long before are of something else, or false
        earliest = max(0, first - labels.horizon + 1)
        alarms = np.flatnonzero(risk_N[start + earliest : start + first + 1] > threshold)
        caught.append(len(alarms) > 0)
        if len(alarms):
            warned.append((first - earliest - alarms[0]) / model.spec.control_hz)
    if caught:
        found["caught"] = float(np.mean(caught))
    if warned:
        found["warned"] = float(np.mean(warned))
    return found


__all__ = ["BINS", "auc", "calibration", "measure_risk"]
