"""How well advantages tell good moments from bad ones, where the data know the truth.

N steps.
"""

from __future__ import annotations

import numpy as np


def advantage_auc(advantage_N: np.ndarray, bad_N: np.ndarray) -> float:
    """The chance that a good step's advantage is greater than a bad step's; ties count half.

    The area under the ROC curve: 0.5 if advantages know nothing, 1 if they tell all.

    Args:
        advantage_N: of each step.
        bad_N: bool, whether the step was a bad one (a detour).

    Returns NaN if all steps are good, or all are bad.
    """
    good = int((~bad_N).sum())
    bad = int(bad_N.sum())
    if not good or not bad:
        return float("nan")
    # Mann and Whitney's statistic: ranks of the good ones above the least that they could have
    from scipy.stats import rankdata  # a second of imports

    ranks_N = rankdata(advantage_N)
    above = float(ranks_N[~bad_N].sum()) - good * (good + 1) / 2
    return above / (good * bad)


__all__ = ["advantage_auc"]
