"""What the trainings of `offline_rl_images.py` add up to: rates over seeds and starts, differences
of methods, one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from _offline_rows import CONTROL, Row
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from vla.sim_eval.statistics import mcnemar_exact, method_difference, method_rate, wilson_interval
from vla.sim_eval.statistics.newcombe import newcombe_paired_interval

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
    """Rate of A minus that of B over the seeds of both, with interval and p.

    Of one seed McNemar's test speaks of these two networks, not of the methods.
    """
    seeds = sorted(a.keys() & b.keys())
    if not seeds:
        return {"seeds": [], "difference": None, "interval": None, "p": None}
    a_SN = outcomes({seed: a[seed] for seed in seeds})
    b_SN = outcomes({seed: b[seed] for seed in seeds})
    entry: dict[str, Any] = {
        "seeds": seeds,
        "per_seed": [round(float(value), 4) for value in (a_SN - b_SN).mean(1)],
    }
    if len(seeds) == 1:
        return entry | _of_two_networks(a_SN[0], b_SN[0])
    # both continue from the clone of their seed
    found = method_difference(a_SN, b_SN, paired=True)
    return entry | {
        "over": "trainings and starts",
        "difference": found.difference,
        "interval": list(found.interval),
        "p": found.p_value,
        "p_permutation": found.p_permutation,
    }


def _of_two_networks(a_N: NDArray[Any], b_N: NDArray[Any]) -> dict[str, Any]:
    wins, losses = int((a_N > b_N).sum()), int((b_N > a_N).sum())
    both = int((a_N * b_N).sum())
    neither = len(a_N) - wins - losses - both
    return {
        "over": "starts of one training",
        "difference": float(a_N.mean() - b_N.mean()),
        "interval": list(newcombe_paired_interval(both, wins, losses, neither)),
        "p": mcnemar_exact(wins, losses, both + neither),
    }


def rate_interval(solved_SN: NDArray[Any]) -> list[float]:
    """95 % interval of a method's rate; of one training that of its starts alone (Wilson)."""
    if len(solved_SN) == 1:
        return list(wilson_interval(int(solved_SN.sum()), solved_SN.shape[1]))
    return list(method_rate(solved_SN).interval)


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
    network = ", one training" if len(entry["seeds"]) == 1 else ""
    low, high = entry["interval"]
    return f"{text} ({100 * low:+.0f} to {100 * high:+.0f})\np {entry['p']:.2g}{network}"
