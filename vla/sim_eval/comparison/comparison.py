"""Which of several policies is better: paired tests of evaluations, corrected for their number.

Policies that played the same episodes are compared episode by episode (McNemar's exact test of those that only
one of them solved): the luck of the starts cancels. Where no episode is shared, Barnard's test compares counts.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vla.sim_eval.comparison.comparability import (
    ComparisonError,
    Key,
    differences,
    episodes_by_key,
    own_choices,
    refusal,
)
from vla.sim_eval.comparison.results import Results, summary
from vla.sim_eval.statistics import (
    barnard,
    clustered_bootstrap_difference,
    holm,
    mcnemar_exact,
    minimum_pairs,
    paired_probability_of_improvement,
    probability_of_improvement,
)
from vla.sim_eval.statistics.newcombe import newcombe_interval, newcombe_paired_interval

COMPARISON_FILE = "compare.json"
BOOTSTRAP_TASKS = 5  # fewer tasks tell too little of tasks like them


@dataclass(frozen=True)
class Pair:
    """Two policies beside each other; differences are a minus b.

    Attributes:
        a, b: names.
        test: "McNemar" (paired), "Barnard" (unpaired), or "anytime-valid" (a sequential comparison).
        episodes: pairs, or episodes of a and of b where they are not paired.
        wins, losses, ties: pairs that only a, only b, and both or neither solved; 0 where there are no pairs.
        successes: of a and of b in the episodes that are compared.
        difference: of the success rates in these episodes.
        interval: 95 % interval of the difference.
        interval_over: "tasks" where it holds for tasks like these (a bootstrap of tasks and episodes), "episodes" where
            there are too few tasks for that and it holds for these very tasks (Newcombe).
        p_value: chance of such a difference, or a greater one, between equal policies.
        p_adjusted: Holm's correction over all pairs of the comparison.
        better: posterior probability that a is better than b.
        within_reach: whether so many episodes could have been significant at all.
    """

    a: str
    b: str
    test: str
    episodes: tuple[int, ...]
    wins: int
    losses: int
    ties: int
    successes: tuple[int, int]
    difference: float
    interval: tuple[float, float]
    interval_over: str
    p_value: float
    p_adjusted: float
    better: float
    within_reach: bool

    def verdict(self, alpha: float) -> str:
        """The winner, or that there is none."""
        if self.p_adjusted <= alpha:
            return f"{self.a if self.difference > 0 else self.b} is better"
        return "no difference shown" if self.within_reach else "too few to tell"


@dataclass(frozen=True)
class Comparison:
    """Several policies, measured on the same episodes.

    Attributes:
        runs: name -> results, the highest success rate first.
        pairs: every two policies; `a` is the one with the higher rate.
        letters: name -> letters; policies that share one do not differ significantly.
        alpha: significance level of the whole comparison.
        warnings: differences between the runs that forbade the comparison until it was forced.
        notes: what else to know when reading the numbers.
    """

    runs: Mapping[str, Results]
    pairs: tuple[Pair, ...]
    letters: Mapping[str, str]
    alpha: float = 0.05
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """What `compare.json` holds."""
        return {
            "suites": list(dict.fromkeys(result.suite for result in self.runs.values())),
            "alpha": self.alpha,
            "policies": {
                name: {
                    **summary(r.episodes),
                    "macro_rate": r.macro_rate,
                    "letters": self.letters[name],
                }
                for name, r in self.runs.items()
            },
            "pairs": [{**asdict(pair), "verdict": pair.verdict(self.alpha)} for pair in self.pairs],
            "warnings": list(self.warnings),
            "notes": list(self.notes),
            "folders": {
                name: str(result.folder) for name, result in self.runs.items() if result.folder
            },
        }

    def save(self, folder: str | Path) -> Path:
        """Writes `compare.json` into `folder`; returns the file."""
        path = Path(folder) / COMPARISON_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.to_dict(), indent=2) + "\n")
        return path

    def tables(self) -> Any:
        """For the terminal: the ranking, every pair, the warnings and the notes."""
        from rich.console import Group
        from rich.text import Text

        remarks = [Text(f"warning: {text}", style="bold yellow") for text in self.warnings]
        return Group(
            *remarks,
            self._ranking(),
            self._pair_table(),
            *(Text(f"note: {text}") for text in self.notes),
        )

    def _ranking(self) -> Any:
        from rich.table import Column, Table

        policy = Column("policy", overflow="fold")  # a name is never cut
        table = Table(
            policy,
            "rate",
            "solved",
            "95 % interval",
            "alike",
            title="Policies that share a letter are alike",
        )
        for name, result in self.runs.items():
            values = summary(result.episodes)
            low, high = values["wilson95"]
            counts = f"{values['successes']}/{values['episodes']}"
            table.add_row(
                name,
                f"{values['rate']:.2f}",
                counts,
                f"{low:.2f} to {high:.2f}",
                self.letters[name],
            )
        return table

    def _pair_table(self) -> Any:
        from rich import box
        from rich.table import Column, Table

        # so narrow that 80 columns hold it without cutting anything: names are folded, numbers are not
        heads = (
            "A",
            "B",
            "A - B",
            "95 %\ninterval",
            "only A /\nonly B /\nsame",
            "P(A\n> B)",
            "p",
            "p\n(Holm)",
            "",
        )
        whole = heads[2:8]
        columns = (Column(head, overflow="fold", no_wrap=head in whole) for head in heads)
        table = Table(*columns, box=box.SIMPLE_HEAD)
        for pair in self.pairs:
            low, high = pair.interval
            counts = (
                f"{pair.wins} / {pair.losses} / {pair.ties}"
                if pair.test != "Barnard"
                else "not paired"
            )
            numbers = (f"{pair.better:.3f}", f"{pair.p_value:.2g}", f"{pair.p_adjusted:.2g}")
            interval = f"{low:+.2f} to\n{high:+.2f}"
            verdict = pair.verdict(self.alpha)
            if verdict.endswith("is better"):
                verdict = f"{'A' if pair.difference > 0 else 'B'} is better"
            table.add_row(
                pair.a, pair.b, f"{pair.difference:+.2f}", interval, counts, *numbers, verdict
            )
        return table


def compare(
    runs: Iterable[Results | str | Path], *, force: bool = False, alpha: float = 0.05
) -> Comparison:
    """Compares every two of several evaluations.

    Args:
        runs: results, or folders that hold them; at least two.
        force: compare runs that differ in more than the policy. They are paired on the episodes that they share, and
            unpaired where they share none; the differences become `Comparison.warnings`.
        alpha: chance that any difference is claimed between policies that are equal (Holm).

    Raises ComparisonError where there is nothing to compare, or the runs differ and `force` is not given;
    ResultsError where a folder holds no results.
    """
    loaded = [run if isinstance(run, Results) else Results.load(run) for run in runs]
    if len(loaded) < 2:
        raise ComparisonError(
            f"a comparison needs at least two runs, got {len(loaded)}: name another evaluation's folder"
        )
    if not 0 < alpha < 1:
        raise ComparisonError(
            f"alpha: is {alpha:g}, expected a value between 0 and 1, for example 0.05"
        )
    named = _named(loaded)
    found = differences(named)
    if found and not force:
        raise refusal(found)
    ranked = dict(sorted(named.items(), key=lambda item: -item[1].rate))
    pairs = [_pair(a, b, named, alpha) for a, b in itertools.combinations(ranked, 2)]
    adjusted = holm([pair["p_value"] for pair in pairs])
    final = tuple(Pair(**pair, p_adjusted=p) for pair, p in zip(pairs, adjusted, strict=True))
    return Comparison(
        runs=ranked,
        pairs=final,
        letters=letters(list(ranked), [(p.a, p.b) for p in final if p.p_adjusted <= alpha]),
        alpha=alpha,
        warnings=tuple(map(str, found)),
        notes=(*_stopped(named), *own_choices(named), *_too_few(final, alpha)),
    )


def decided_sequentially(comparison: Comparison, p_value: float, note: str) -> Comparison:
    """The same comparison of two policies with the p-value of a test that was looked at all along."""
    [pair] = comparison.pairs
    pair = replace(
        pair, test="anytime-valid", p_value=p_value, p_adjusted=p_value, within_reach=True
    )
    different = [(pair.a, pair.b)] if p_value <= comparison.alpha else []
    marks = letters(list(comparison.runs), different)
    return replace(comparison, pairs=(pair,), letters=marks, notes=(note,))


def _named(results: Sequence[Results]) -> dict[str, Results]:
    """Name -> results; policies of one name are told apart by their folders. Raises where a run is given twice."""
    folders = [result.folder.resolve() for result in results if result.folder]
    if twice := [folder for folder, n in Counter(folders).items() if n > 1]:
        raise ComparisonError(f"{twice[0]} is given twice: a run cannot be compared with itself")
    count, names = Counter(result.policy for result in results), dict[str, Results]()
    for number, result in enumerate(results, start=1):
        label = result.folder.name if result.folder and result.folder.name else f"run {number}"
        name = result.policy if count[result.policy] == 1 else f"{result.policy} ({label})"
        names[name if name not in names else f"{result.policy} (run {number})"] = result
    return names


def _pair(a: str, b: str, runs: Mapping[str, Results], alpha: float) -> dict[str, Any]:
    """The fields of a `Pair`, but for the adjusted p-value."""
    of_a, of_b = (
        {key: record.success_ever for key, record in episodes_by_key(runs[n]).items()}
        for n in (a, b)
    )
    common = [key for key in of_a if key in of_b]
    if common:
        of_a, of_b = {key: of_a[key] for key in common}, {key: of_b[key] for key in common}
    n_a, n_b, s_a, s_b = len(of_a), len(of_b), sum(of_a.values()), sum(of_b.values())
    wins = sum(of_a[key] and not of_b[key] for key in common)
    losses = sum(of_b[key] and not of_a[key] for key in common)
    ties = len(common) - wins - losses
    if common:
        p_value, better = (
            mcnemar_exact(wins, losses, ties),
            paired_probability_of_improvement(wins, losses, ties),
        )
        within_reach = wins + losses >= minimum_pairs(alpha)
    else:
        p_value, better = (
            barnard(s_a, n_a, s_b, n_b),
            probability_of_improvement(s_a, n_a, s_b, n_b),
        )
        within_reach = barnard(n_a, n_a, 0, n_b) <= alpha
    interval, interval_over = _interval(of_a, of_b, paired=bool(common))
    return {
        "a": a,
        "b": b,
        "test": "McNemar" if common else "Barnard",
        "episodes": (len(common),) if common else (n_a, n_b),
        "wins": wins,
        "losses": losses,
        "ties": ties,
        "successes": (s_a, s_b),
        "difference": s_a / n_a - s_b / n_b,
        "interval": interval,
        "interval_over": interval_over,
        "p_value": p_value,
        "better": better,
        "within_reach": within_reach,
    }


def _interval(
    of_a: Mapping[Key, bool], of_b: Mapping[Key, bool], *, paired: bool
) -> tuple[tuple[float, float], str]:
    """95 % interval of the difference, and what it is drawn over. A bootstrap of a few tasks would say little."""
    tasks_a, tasks_b = _by_task(of_a), _by_task(of_b)
    same_sizes = len({len(values) for values in (*tasks_a.values(), *tasks_b.values())}) == 1
    if tasks_a.keys() == tasks_b.keys() and len(tasks_a) >= BOOTSTRAP_TASKS and same_sizes:
        low, high = clustered_bootstrap_difference(tasks_a, tasks_b, paired=paired)
        if low < high:  # where every episode says the same, resampling knows no doubt
            return (low, high), "tasks"
    if not paired:
        return newcombe_interval(
            sum(of_a.values()), len(of_a), sum(of_b.values()), len(of_b)
        ), "episodes"
    table = Counter((of_a[key], of_b[key]) for key in of_a)
    counts = [
        table[outcome] for outcome in ((True, True), (True, False), (False, True), (False, False))
    ]
    return newcombe_paired_interval(*counts), "episodes"


def _by_task(outcomes: Mapping[Key, bool]) -> dict[str, list[float]]:
    tasks: dict[str, list[float]] = {}
    for (task, _, _), solved in outcomes.items():
        tasks.setdefault(task, []).append(float(solved))
    return tasks


def _too_few(pairs: Sequence[Pair], alpha: float) -> list[str]:
    """Says which pairs could not have been significant whatever happened, and what they would need."""
    needed, notes = minimum_pairs(alpha), []
    for pair in pairs:
        if pair.within_reach:
            continue
        if pair.test == "Barnard":
            n_a, n_b = pair.episodes
            text = f"{n_a} and {n_b} unpaired episodes cannot reach p <= {alpha:g}; play more"
        elif pair.episodes[0] < needed:
            text = f"{pair.episodes[0]} paired episodes cannot reach p <= {alpha:g}; the exact test needs at least {needed}"
        else:
            differing = pair.wins + pair.losses
            text = (
                f"only {differing} of {pair.episodes[0]} paired episodes were solved by one policy alone; the exact test "
                f"needs {needed} such episodes to reach p <= {alpha:g}"
            )
        notes.append(f"{pair.a} and {pair.b}: {text}")
    return notes


def _stopped(runs: Mapping[str, Results]) -> list[str]:
    names = [name for name, result in runs.items() if result.stopped_by]
    if not names:
        return []
    return [
        f"{', '.join(names)}: the number of episodes was decided by the outcomes ({runs[names[0]].stopped_by}); "
        "p-values of a test with a fixed number of episodes are too small for such runs"
    ]


def letters(names: Sequence[str], different: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Compact letter display: two names share a letter just where their pair is not in `different`.

    Insert and absorb (Piepho 2004): begin with one letter for all; a pair that differs splits every letter that both
    have; letters whose names are all under another letter go. Letters follow the order of `names`.
    """
    groups = [frozenset(names)]
    for a, b in different:
        split = [
            part
            for group in groups
            for part in ((group - {a}, group - {b}) if {a, b} <= group else (group,))
        ]
        unique = list(dict.fromkeys(split))
        groups = [group for group in unique if not any(group < other for other in unique)]
    rank = {name: i for i, name in enumerate(names)}
    groups.sort(key=lambda group: sorted(rank[name] for name in group))
    return {
        name: "".join(_letter(i) for i, group in enumerate(groups) if name in group)
        for name in names
    }


def _letter(index: int) -> str:
    return chr(ord("a") + index) if index < 26 else f"({index + 1})"
