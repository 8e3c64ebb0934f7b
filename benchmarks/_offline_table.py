"""What the trainings of `offline_rl_images.py` add up to: rates over seeds and starts, differences
of methods, one table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from _offline_rows import CONTROL, Row
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

# S seeds of the training, N starts (of all tasks).
Records = Mapping[str, Mapping[int, dict[str, Any]]]
"""Row -> seed -> what `_offline_trainings` has recorded."""


def outcomes(records: Mapping[int, dict[str, Any]], *, within: int | None = None) -> NDArray[Any]:
    """Whether each training (S) solved each start (N): (S, N), tasks in the order of the alphabet.

    Args:
        within: count successes within so many steps alone.
    """
    rows = []
    for seed in sorted(records):
        steps = records[seed]["steps"]
        flat = np.concatenate([steps[task] for task in sorted(steps)])
        rows.append((flat > 0) & (flat <= (within or np.inf)))
    return np.array(rows, dtype=np.float64)


def summarise(
    records: Records,
    rows: Mapping[str, Row],
    *,
    within: Sequence[int] = (),
) -> dict[str, dict[str, Any]]:
    """The numbers of every row, the best first.

    Differences are over the seeds that both rows have: from one clone, on the same starts.
    """
    found: dict[str, dict[str, Any]] = {}
    filters = [name for name in records if rows[name].kind == "filter"]
    best = max(filters, key=lambda name: outcomes(records[name]).mean(), default=None)
    for name, of_seed in records.items():
        row, solved_SN = rows[name], outcomes(of_seed)
        entry: dict[str, Any] = {
            "what": row.what,
            "kind": row.kind,
            "objective": row.objective,
            "differs": row.differs,
            "seeds": sorted(of_seed),
            "starts": solved_SN.shape[1],
            "successes": [int(n) for n in solved_SN.sum(1)],
            "rate": float(solved_SN.mean()),
            "interval": rate_interval(solved_SN),
            "tasks": _per_task(of_seed),
            "minutes": [round(of_seed[seed]["minutes"], 1) for seed in sorted(of_seed)],
        }
        if within:
            entry["within"] = {n: outcomes(of_seed, within=n).sum(1).tolist() for n in within}
        for key, other in (("against_control", CONTROL), ("against_best_filter", best)):
            if other in records and other != name:
                entry[key] = difference(of_seed, records[other]) | {"row": other}
        found[name] = entry
    return dict(sorted(found.items(), key=lambda item: -item[1]["rate"]))


def difference(
    a: Mapping[int, dict[str, Any]],
    b: Mapping[int, dict[str, Any]],
) -> dict[str, Any]:
    """Rate of A minus that of B over the seeds of both, with interval and p; None for both with
    fewer than two seeds."""
    seeds = sorted(a.keys() & b.keys())
    if not seeds:
        return {"seeds": [], "difference": None, "interval": None, "p": None}
    a_SN = outcomes({seed: a[seed] for seed in seeds})
    b_SN = outcomes({seed: b[seed] for seed in seeds})
    differences_S = (a_SN - b_SN).mean(1)
    interval, p = None, None
    if len(seeds) > 1:
        interval, p = _paired_t(differences_S)
    return {
        "seeds": seeds,
        "difference": float(differences_S.mean()),
        "per_seed": [round(float(value), 4) for value in differences_S],
        "interval": interval,
        "p": p,
    }


def rate_interval(solved_SN: NDArray[Any]) -> list[float]:
    """95 % interval of a method's rate; of one training that of its starts alone (Wilson)."""
    from vla.sim_eval.statistics import wilson_interval

    if len(solved_SN) == 1:
        return list(wilson_interval(int(solved_SN.sum()), solved_SN.shape[1]))
    interval, _ = _paired_t(solved_SN.mean(1))
    return [max(0.0, interval[0]), min(1.0, interval[1])]


def _paired_t(values_S: NDArray[Any]) -> tuple[list[float], float]:
    """95 % interval of the mean, and p of the mean being 0, by Student's t over seeds."""
    from scipy.special import stdtr, stdtrit

    n = len(values_S)
    mean, error = float(values_S.mean()), float(values_S.std(ddof=1)) / math.sqrt(n)
    reach = float(stdtrit(n - 1, 0.975)) * error
    if error == 0:
        return [mean, mean], 1.0 if mean == 0 else 0.0
    p = 2 * float(stdtr(n - 1, -abs(mean) / error))
    return [mean - reach, mean + reach], p


def _per_task(records: Mapping[int, dict[str, Any]]) -> dict[str, list[int]]:
    """Task -> successes of each seed."""
    tasks = sorted(next(iter(records.values()))["steps"])
    found = {}
    for task in tasks:
        found[task] = [sum(n > 0 for n in records[s]["steps"][task]) for s in sorted(records)]
    return found


def table(found: Mapping[str, dict[str, Any]]) -> Table:
    """For the terminal; rows marked by * differ in more than the objective."""
    name = Column("row", no_wrap=True)
    made = Table(name, "seeds", "solved", "rate", "- control", "- best filter", box=SIMPLE_HEAD)
    for key, entry in found.items():
        low, high = entry["interval"]
        made.add_row(
            key + (" *" if entry["differs"] else ""),
            str(len(entry["seeds"])),
            f"{' '.join(map(str, entry['successes']))} of {entry['starts']}",
            f"{100 * entry['rate']:.0f}\n{100 * low:.0f} to {100 * high:.0f}",
            _difference_cell(entry.get("against_control")),
            _difference_cell(entry.get("against_best_filter")),
        )
    return made


def _difference_cell(entry: dict[str, Any] | None) -> str:
    if entry is None or entry["difference"] is None:
        return ""
    text = f"{100 * entry['difference']:+.0f}"
    if entry["interval"] is None:
        return f"{text}, one training"
    low, high = entry["interval"]
    return f"{text} ({100 * low:+.0f} to {100 * high:+.0f})\np {entry['p']:.2g}"
