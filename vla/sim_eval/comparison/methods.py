"""Which of several methods is better: several trainings of each, all on the same starts.

Rows of a method's outcomes are its trainings, columns the starts. See
`vla.sim_eval.statistics.trainings` for intervals and tests.
"""

# S trainings of a method, N starts.

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla.common.atomic import write_text
from vla.sim_eval.comparison.comparability import (
    ComparisonError,
    differences,
    episodes_by_key,
    own_choices,
    refusal,
)
from vla.sim_eval.comparison.comparison import COMPARISON_FILE, letters
from vla.sim_eval.comparison.results import Results
from vla.sim_eval.comparison.trainings import (
    by_origin,
    check_trainings,
    check_used_once,
    share_origins,
)
from vla.sim_eval.statistics import MethodDifference, MethodRate, holm, method_rate
from vla.sim_eval.statistics import method_difference as tested_difference

QUESTION = "these methods, over trainings and starts like these"
"""What a comparison of methods answers."""


@dataclass(frozen=True)
class MethodPair:
    """Two methods beside each other; differences are a minus b.

    Attributes:
        a, b: names.
        found: difference, interval and p-values.
        p_adjusted: Holm's correction over all pairs of the comparison.
    """

    a: str
    b: str
    found: MethodDifference
    p_adjusted: float

    def verdict(self, alpha: float) -> str:
        """The winner, or that there is none."""
        if self.p_adjusted > alpha:
            return "no difference shown"
        return f"{self.a if self.found.difference > 0 else self.b} is better"


@dataclass(frozen=True)
class MethodComparison:
    """Several methods, each by several trainings.

    Attributes:
        methods: name -> evaluations of its trainings, the highest rate first.
        rates: name -> rate with interval; None for a method of one training (forced).
        pairs: every two methods; `a` is the one with the higher rate.
        letters: name -> letters; methods that share one do not differ significantly.
        alpha: significance level of the whole comparison.
        warnings: what forbade the comparison until it was forced.
        notes: what else to know when reading the numbers.
    """

    methods: Mapping[str, tuple[Results, ...]]
    rates: Mapping[str, MethodRate | None]
    pairs: tuple[MethodPair, ...]
    letters: Mapping[str, str]
    alpha: float = 0.05
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """What `compare.json` holds."""
        methods = {}
        for name, runs in self.methods.items():
            rate = self.rates[name]
            methods[name] = {
                "rates": [run.rate for run in runs],
                "over": None if rate is None else asdict(rate),
                "letters": self.letters[name],
                "trainings": [dict(run.training) for run in runs],
                "folders": [str(run.folder) for run in runs if run.folder],
            }
        pairs = []
        for pair in self.pairs:
            more = {"p_adjusted": pair.p_adjusted, "verdict": pair.verdict(self.alpha)}
            pairs.append({"a": pair.a, "b": pair.b, **asdict(pair.found), **more})
        return {
            "question": QUESTION,
            "alpha": self.alpha,
            "methods": methods,
            "pairs": pairs,
            "warnings": list(self.warnings),
            "notes": list(self.notes),
        }

    def save(self, folder: str | Path) -> Path:
        """Writes `compare.json` into `folder`; returns the file."""
        path = Path(folder) / COMPARISON_FILE
        write_text(path, json.dumps(self.to_dict(), indent=2) + "\n")
        return path

    def tables(self) -> Any:
        """For the terminal: the ranking, every pair, the warnings and the notes."""
        from rich.console import Group
        from rich.text import Text

        # Text, not a string: rich would take the brackets in a name for markup
        warnings = [Text(f"warning: {text}", style="bold yellow") for text in self.warnings]
        # below the last table, and a line of their own from it
        notes: list[Any] = (
            ["", *(Text(f"note: {text}") for text in self.notes)] if self.notes else []
        )
        question = Text(f"compared: {QUESTION}")
        return Group(*warnings, question, self._ranking(), self._pair_table(), *notes)

    def _ranking(self) -> Any:
        from vla.common.terminal.tables import Table, whole

        table = Table(
            *whole("method", "rate", "95 % interval"),
            # many trainings are many rates: these may go on below each other
            "trainings",
            *whole("alike"),
            title="Methods that share a letter are alike",
        )
        for name, runs in self.methods.items():
            rate = self.rates[name]
            interval = "one network"
            if rate is not None:
                low, high = rate.interval
                interval = f"{low:.2f} to {high:.2f}"
            mean = sum(run.rate for run in runs) / len(runs)
            each = " ".join(f"{run.rate:.2f}" for run in runs)
            table.add_row(name, f"{mean:.2f}", interval, each, self.letters[name])
        return table

    def _pair_table(self) -> Any:
        from vla.common.terminal.tables import Table, whole

        heads = ("A - B", "95 %\ninterval", "trainings", "p\n(Holm)", "p of\npermutations")
        table = Table(*whole("pair", *heads), "verdict", title="Every two methods", leading=1)
        for pair in self.pairs:
            found = pair.found
            low, high = found.interval
            winner = "A" if found.difference > 0 else "B"
            verdict = pair.verdict(self.alpha)
            table.add_row(
                f"A {pair.a}\nB {pair.b}",
                f"{found.difference:+.2f}",
                f"{low:+.2f} to\n{high:+.2f}",
                f"{found.trainings[0]} {'pairs' if found.paired else f'/ {found.trainings[1]}'}",
                f"{found.p_value:.2g}\n({pair.p_adjusted:.2g})",
                f"{found.p_permutation:.2g}",
                f"{winner} is better" if pair.p_adjusted <= self.alpha else verdict,
            )
        return table


def compare_methods(
    methods: Mapping[str, Sequence[Results | str | Path]],
    *,
    force: bool = False,
    alpha: float = 0.05,
) -> MethodComparison:
    """Compares every two of several methods.

    Trainings are paired where those of both methods continue from the same policies one by one.

    Args:
        methods: name -> results of its trainings, or folders that hold them; at least two methods.
        force: compare although runs differ in more than the method, a group holds trainings of
            several methods, or a method has one training; this becomes `warnings`. What only some
            runs played is left out.
        alpha: chance that any difference is claimed between methods that are equal (Holm).

    Raises ComparisonError if there is nothing to compare, a run is given twice, or one of the
    above holds and `force` is not given; ResultsError if a folder holds no results.
    """
    # in the order of the policies from which they continue: only so can trainings be paired
    loaded = {name: by_origin([_load(run) for run in runs]) for name, runs in methods.items()}
    if len(loaded) < 2 or not all(loaded.values()):
        raise ComparisonError(
            f"a comparison of methods needs at least two with runs, got {_counts(loaded)}: "
            "name another, as in iql=runs/iql_s0/eval,runs/iql_s1/eval"
        )
    if not 0 < alpha < 1:
        raise ComparisonError(
            f"alpha: is {alpha:g}, expected a value between 0 and 1, for example 0.05"
        )
    check_used_once(loaded)
    found = [*check_trainings(loaded), *differences(_labelled(loaded))]
    if found and not force:
        raise refusal(found)
    outcomes = _outcomes(loaded)
    ranked = dict(sorted(loaded.items(), key=lambda item: -outcomes[item[0]].mean()))
    tests = {}
    for a, b in itertools.combinations(ranked, 2):
        tests[a, b] = _difference(outcomes[a], outcomes[b], share_origins(loaded[a], loaded[b]))
    adjusted = holm([test.p_value for test in tests.values()])
    pairs = [
        MethodPair(a, b, test, p) for ((a, b), test), p in zip(tests.items(), adjusted, strict=True)
    ]
    different = [(pair.a, pair.b) for pair in pairs if pair.p_adjusted <= alpha]
    return MethodComparison(
        methods=ranked,
        rates={name: _rate(outcomes[name]) for name in ranked},
        pairs=tuple(pairs),
        letters=letters(list(ranked), different),
        alpha=alpha,
        warnings=tuple(map(str, found)),
        notes=(*_unsaid(loaded), *own_choices(_labelled(loaded))),
    )


def _load(run: Results | str | Path) -> Results:
    return run if isinstance(run, Results) else Results.load(run)


def _counts(methods: Mapping[str, Sequence[Results]]) -> str:
    return ", ".join(f"{name} ({len(runs)})" for name, runs in methods.items()) or "none"


def _labelled(methods: Mapping[str, Sequence[Results]]) -> dict[str, Results]:
    """ "iql seed 0" -> its results; a number in place of a seed that is not recorded."""
    found = {}
    for name, runs in methods.items():
        for number, run in enumerate(runs, start=1):
            seed = run.training.get("seed")
            label = f"{name} run {number}" if seed is None else f"{name} seed {seed}"
            found[label if label not in found else f"{label} run {number}"] = run
    return found


def _outcomes(methods: Mapping[str, Sequence[Results]]) -> dict[str, NDArray[np.float64]]:
    """Name -> (S, N) outcomes at the starts that all runs share, in one order.

    Raises ComparisonError if they share none.
    """
    runs = [episodes_by_key(run) for group in methods.values() for run in group]
    common = [key for key in runs[0] if all(key in run for run in runs)]
    if not common:
        raise ComparisonError(
            "the runs share no start: methods are compared on the same ones; evaluate all "
            "trainings with the same tasks and seed"
        )
    found = {}
    for name, group in methods.items():
        rows = [[episodes_by_key(run)[key].success_ever for key in common] for run in group]
        found[name] = np.array(rows, dtype=np.float64)
    return found


def _difference(
    a_SN: NDArray[np.float64], b_SN: NDArray[np.float64], paired: bool
) -> MethodDifference:
    # A single training (forced) is taken as it is: a network, whose trainings do not vary. Paired
    # with each training of the other method it adds nothing to their variance.
    if len(a_SN) == 1 or len(b_SN) == 1:
        paired = True
        most = max(len(a_SN), len(b_SN), 2)
        a_SN = np.repeat(a_SN, most, axis=0) if len(a_SN) == 1 else a_SN
        b_SN = np.repeat(b_SN, most, axis=0) if len(b_SN) == 1 else b_SN
    return tested_difference(a_SN, b_SN, paired=paired)


def _rate(outcomes_SN: NDArray[np.float64]) -> MethodRate | None:
    return None if len(outcomes_SN) == 1 else method_rate(outcomes_SN)


def _unsaid(methods: Mapping[str, Sequence[Results]]) -> list[str]:
    """A note on runs whose policies do not say how they were trained."""
    labelled = _labelled(methods)
    silent = [label for label, run in labelled.items() if not run.training]
    if not silent:
        return []
    return [
        f"{', '.join(silent)}: the results do not say by which training the policy was made, so "
        "whether these are different trainings of one method was not checked"
    ]
