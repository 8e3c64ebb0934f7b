"""What a reward model is worth, on episodes that it has not learned from.

N steps, E episodes.
"""

from __future__ import annotations

import math
import warnings

import numpy as np

from vla.models.rewards.base import RewardModel
from vla.models.rewards.labelled import LabelledSteps
from vla.models.rewards.preference import PreferenceConfig, PreferenceExamples, PreferenceReward
from vla.models.rewards.progress import ProgressReward, progress_targets
from vla.models.rewards.risk import RiskModel
from vla.models.rewards.scoring import Scores, score_steps
from vla.training.reward_learning.risk_measures import auc, measure_risk

LEAST_THRESHOLD = 0.5
_PAIRS = 500
"""Pairs of held-out segments by which a preference model is measured."""


def measure(
    model: RewardModel, steps: LabelledSteps, *, false_alarms: float, seed: int
) -> dict[str, float]:
    """The numbers by which reward models are compared; a judge of success, and a
    risk network, get their threshold.

    Args:
        steps: of held-out episodes.
        false_alarms: of the config.
        seed: decides which wrong instruction an episode is judged under.

    Returns:
        As far as the data can tell:
        `episode_auc` (the greatest probability of success in solved episodes against others; of
        models without one, what is left at the end or the sum of rewards), `frame_auc`,
        `found` (share of solved episodes that are called solved), `late` (mean steps from success
        to its detection), `false_alarms/failures`, `/mistaken`, `/wrong_instruction` (shares that
        are called solved; the last where the model reads instructions), `threshold`,
        `rank_correlation` (Spearman's, of learned and recorded returns), `progress_correlation`,
        `pair_accuracy`. Of a risk network those of `measure_risk`.
    """
    measures: dict[str, float] = {}
    if isinstance(model, RiskModel):
        measures = measure_risk(model, steps, false_alarms=false_alarms)
        return {name: value for name, value in measures.items() if math.isfinite(value)}
    found = score_steps(model, steps)
    if "success" in steps.recorded:
        if found.success is not None:
            measures |= _of_success(model, steps, found.success, false_alarms, seed)
        else:
            whole_E = _of_episodes(model, steps, found)
            solved_E = steps.episode_solved
            measures["episode_auc"] = auc(whole_E[solved_E], whole_E[~solved_E])
    if "rewards" in steps.recorded:
        learned_E = np.add.reduceat(found.rewards.astype(np.float64), steps.starts)
        measures["rank_correlation"] = _spearman(learned_E, steps.returns)
    if isinstance(model, ProgressReward):
        solved_N = steps.episode_solved[steps.episode_of]
        target_N = progress_targets(steps, float(model.horizon))
        correlation = _spearman(found.scores[solved_N], target_N[solved_N])
        measures["progress_correlation"] = correlation
    if isinstance(model, PreferenceReward):
        measures |= _of_pairs(model.config, steps, found, seed)
    return {name: value for name, value in measures.items() if math.isfinite(value)}


def _of_episodes(model: RewardModel, steps: LabelledSteps, found: Scores) -> np.ndarray:
    """One number of each episode, greater where it went better."""
    if isinstance(model, ProgressReward):
        # what has been reached at the end
        return np.asarray(found.scores[steps.starts + steps.lengths - 1])
    total = np.add.reduceat(found.rewards.astype(np.float64), steps.starts)
    # failures last longest: a sum would say how long an episode was
    return np.asarray(total / steps.lengths)


def _of_success(
    model: RewardModel,
    steps: LabelledSteps,
    success_N: np.ndarray,
    false_alarms: float,
    seed: int,
) -> dict[str, float]:
    greatest_E = np.maximum.reduceat(success_N, steps.starts)
    solved_E = steps.episode_solved
    wrong_E = _under_wrong_instructions(model, steps, seed)
    reads_words = wrong_E is not None and not np.array_equal(wrong_E, greatest_E)
    # those that choose the threshold say nothing of how good it is
    chooses_E = np.arange(len(solved_E)) % 2 == 0
    others = [greatest_E[chooses_E & ~solved_E]]
    if wrong_E is not None and reads_words:
        others.append(wrong_E[chooses_E & solved_E])
    threshold = _threshold(np.concatenate(others), false_alarms)
    model.threshold.fill_(threshold)
    reported_E = ~chooses_E
    failed_E = reported_E & ~solved_E
    mistaken_E = failed_E & _did_something_else(steps)
    own_E = reported_E & solved_E
    measures = {
        "episode_auc": auc(greatest_E[solved_E], greatest_E[~solved_E]),
        "frame_auc": auc(success_N[steps.solved], success_N[~steps.solved]),
        "threshold": threshold,
        "found": _share(greatest_E[own_E] >= threshold),
        "late": _mean_delay(steps, success_N >= threshold, own_E),
        "false_alarms/failures": _share(greatest_E[failed_E] >= threshold),
        "false_alarms/mistaken": _share(greatest_E[mistaken_E] >= threshold),
    }
    if wrong_E is not None and reads_words:
        measures["false_alarms/wrong_instruction"] = _share(wrong_E[own_E] >= threshold)
        measures["wrong_instruction_auc"] = auc(greatest_E[solved_E], wrong_E[solved_E])
    return measures


def _threshold(negative: np.ndarray, false_alarms: float) -> float:
    """The least threshold from 0.5 on at which at most that share of `negative` are called
    solved."""
    if not len(negative):
        return LEAST_THRESHOLD
    ordered = np.sort(negative)[::-1]
    allowed = int(false_alarms * len(ordered))
    if allowed >= len(ordered):
        return LEAST_THRESHOLD
    # just above the greatest that has to stay out
    above = float(np.nextafter(np.float32(ordered[allowed]), np.float32(2)))
    return max(LEAST_THRESHOLD, above)


def _under_wrong_instructions(
    model: RewardModel, steps: LabelledSteps, seed: int
) -> np.ndarray | None:
    """The greatest probability of success of each episode under an instruction of another one,
    (E,); None where there is but one instruction."""
    names = sorted({steps.instructions[task] for task in steps.task_index.tolist()})
    if len(names) < 2:
        return None
    rng = np.random.default_rng(seed)
    texts: list[str] = []
    for start, length in zip(steps.starts, steps.lengths, strict=True):
        own = {steps.instructions[task] for task in steps.task_index[start : start + length]}
        others = [name for name in names if name not in own] or names
        texts += [others[int(rng.integers(len(others)))]] * int(length)
    found = score_steps(model, steps, texts=texts)
    assert found.success is not None
    return np.asarray(np.maximum.reduceat(found.success, steps.starts))


def _did_something_else(steps: LabelledSteps) -> np.ndarray:
    """bool (E,), whether an episode fulfilled another instruction than its own."""
    found = np.zeros(len(steps.lengths), bool)
    rows = np.array([row for row, _ in steps.achieved()], np.int64)
    found[steps.episode_of[rows]] = True
    return found & ~steps.episode_solved


def _mean_delay(steps: LabelledSteps, called_N: np.ndarray, chosen_E: np.ndarray) -> float:
    """Mean steps from the first solved step to the first that is called solved, of episodes that
    have both; negative if it is called too early."""
    delays = []
    for episode in np.flatnonzero(chosen_E):
        rows = slice(steps.starts[episode], steps.starts[episode] + steps.lengths[episode])
        called = np.flatnonzero(called_N[rows])
        if len(called):
            delays.append(int(called[0]) - int(np.flatnonzero(steps.solved[rows])[0]))
    return float(np.mean(delays)) if delays else float("nan")


def _of_pairs(
    config: PreferenceConfig, steps: LabelledSteps, found: Scores, seed: int
) -> dict[str, float]:
    """How often the preferred of two held-out segments returns more."""
    if config.labels == "returns":
        config = config.model_copy(update={"pairs": _PAIRS})
    try:
        examples = PreferenceExamples(steps, config, seed=seed + 1)
    except ValueError:
        return {}  # nothing held out can be compared
    total = np.concatenate([[0.0], np.cumsum(found.rewards.astype(np.float64))])
    right = []
    for a, b, label in examples.pairs:
        if label != 0.5:
            difference = (total[a[1]] - total[a[0]]) - (total[b[1]] - total[b[0]])
            right.append((difference > 0) == (label > 0.5))
    return {"pair_accuracy": _share(np.array(right))}


def precision_and_recall(called_E: np.ndarray, solved_E: np.ndarray) -> dict[str, float]:
    """Of episodes that are called solved, the share that is; and of those that are, the share that
    is called so. NaN if there are none."""
    return {"precision": _share(solved_E[called_E]), "recall": _share(called_E[solved_E])}


def _share(true: np.ndarray) -> float:
    return float(np.mean(true)) if len(true) else float("nan")


def _spearman(a: np.ndarray, b: np.ndarray) -> float:
    if len(a) < 2:
        return float("nan")
    with warnings.catch_warnings():
        # of constants there is none, which NaN says
        warnings.simplefilter("ignore")
        from scipy.stats import spearmanr  # a second of imports

        return float(spearmanr(a, b).statistic)


__all__ = ["auc", "measure", "precision_and_recall"]
