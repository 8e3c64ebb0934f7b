"""Which of several policies is better: paired tests of evaluations, corrected for their number.

Policies that played the same episodes are compared episode by episode (McNemar's exact test of
those that only one of them solved): the luck of the starts cancels. Where no episode is shared,
Barnard's test compares counts.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vla.common.atomic import write_text
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
QUESTION = (
    "these networks, each of one training: another seed of the training may change the order; "
    "methods are compared by several trainings of each (vla compare A=RUN,RUN B=RUN,RUN)"
)
"""What a comparison of evaluations answers."""
BOOTSTRAP_TASKS = 5  # fewer tasks say too little about tasks like them


@dataclass(frozen=True)
class Pair:
    """Two policies beside each other; differences are a minus b.

    Attributes:
        a, b: names.
        test: "McNemar" (paired), "Barnard" (unpaired), or "anytime-valid" (a sequential
            comparison).
        episodes: pairs, or episodes of a and of b where they are not paired.
        wins, losses, ties: pairs that only a, only b, and both or neither
            solved; 0 if there are no pairs.
        successes: of a and of b in the episodes that are compared.
        difference: of the success rates in these episodes.
        interval: 95 % interval of the difference.
        interval_over: "tasks" if it holds for tasks like these (a bootstrap of tasks and
            episodes), "episodes" if there are too few tasks for that and it holds for
            these very tasks (Newcombe).
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
            winner = self.a if self.difference > 0 else self.b
            return f"{winner} is better"
        # a test that no outcome could have made significant says nothing, not
        # even "no difference shown"
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
        policies, folders = {}, {}
        for name, result in self.runs.items():
            policies[name] = {
                **summary(result.episodes),
                "macro_rate": result.macro_rate,
                "letters": self.letters[name],
            }
            if result.folder:
                folders[name] = str(result.folder)
        pairs = [{**asdict(pair), "verdict": pair.verdict(self.alpha)} for pair in self.pairs]
        return {
            "question": QUESTION,
            # one, unless the comparison was forced
            "suites": list(dict.fromkeys(result.suite for result in self.runs.values())),
            "alpha": self.alpha,
            "policies": policies,
            "pairs": pairs,
            "warnings": list(self.warnings),
            "notes": list(self.notes),
            "folders": folders,
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

        # Text, not a string: rich would take the brackets in a policy's name for markup
        warnings = [Text(f"warning: {text}", style="bold yellow") for text in self.warnings]
        # below the last table, and a line of their own from it
        notes: list[Any] = (
            ["", *(Text(f"note: {text}") for text in self.notes)] if self.notes else []
        )
        # before the numbers: a reader must not take them at face value first
        question = Text(f"compared: {QUESTION}")
        return Group(*warnings, question, self._ranking(), self._pair_table(), *notes)

    def _ranking(self) -> Any:
        from vla.common.terminal.tables import Table, whole

        heads = ("policy", "rate", "solved", "95 % interval", "alike")
        table = Table(*whole(*heads), title="Policies that share a letter are alike")
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
        from vla.common.terminal.tables import Table, whole

        # two lines to a pair: beside its numbers 80 columns have room for one name, not for two
        heads = (
            "pair",
            "A - B",
            "95 %\ninterval",
            "only A /\nonly B /\nsame",
            "P(A\n> B)",
            "p\n(Holm)",
        )
        table = Table(*whole(*heads), "verdict", title="Every two policies", leading=1)
        for pair in self.pairs:
            low, high = pair.interval
            counts = f"{pair.wins} / {pair.losses} / {pair.ties}"
            if pair.test == "Barnard":
                counts = "not paired"
            p_values = f"{pair.p_value:.2g}\n({pair.p_adjusted:.2g})"
            interval = f"{low:+.2f} to\n{high:+.2f}"
            verdict = pair.verdict(self.alpha)
            # a long name would take the width of the numbers
            if verdict.endswith("is better"):
                verdict = f"{'A' if pair.difference > 0 else 'B'} is better"
            table.add_row(
                f"A {pair.a}\nB {pair.b}",
                f"{pair.difference:+.2f}",
                interval,
                counts,
                f"{pair.better:.3f}",
                p_values,
                verdict,
            )
        return table


def compare(
    runs: Iterable[Results | str | Path],
    *,
    force: bool = False,
    alpha: float = 0.05,
) -> Comparison:
    """Compares every two of several evaluations.

    Args:
        runs: results, or folders that hold them; at least two.
        force: compare runs that differ in more than the policy. They are paired on the
            episodes that they share, and unpaired where they share none; the differences
            become `Comparison.warnings`.
        alpha: chance that any difference is claimed between policies that are equal (Holm).

    Raises ComparisonError if there is nothing to compare, or the runs differ and `force` is not
    given; ResultsError if a folder holds no results.
    """
    loaded = [run if isinstance(run, Results) else Results.load(run) for run in runs]
    if len(loaded) < 2:
        raise ComparisonError(
            f"a comparison needs at least two runs, got {len(loaded)}: "
            "name another evaluation's folder"
        )
    if not 0 < alpha < 1:
        raise ComparisonError(
            f"alpha: is {alpha:g}, expected a value between 0 and 1, for example 0.05"
        )
    named = _named(loaded)
    found = differences(named)
    if found and not force:
        raise refusal(found)
    # sorted is stable: policies of one rate keep the order in which they were named
    ranked = dict(sorted(named.items(), key=lambda item: -item[1].rate))
    fields = [_pair(a, b, named, alpha) for a, b in itertools.combinations(ranked, 2)]
    # over all pairs, also those that nobody looks at: the choice of what to
    # report is part of the test
    adjusted = holm([pair["p_value"] for pair in fields])
    pairs = tuple(Pair(**pair, p_adjusted=p) for pair, p in zip(fields, adjusted, strict=True))
    different = [(pair.a, pair.b) for pair in pairs if pair.p_adjusted <= alpha]
    return Comparison(
        runs=ranked,
        pairs=pairs,
        letters=letters(list(ranked), different),
        alpha=alpha,
        warnings=tuple(map(str, found)),
        notes=(*_stopped(named), *own_choices(named), *_too_few(pairs, alpha)),
    )


def decided_sequentially(comparison: Comparison, p_value: float, note: str) -> Comparison:
    """The same comparison of two policies with the p-value of a test that was looked at all
    along."""
    [pair] = comparison.pairs
    pair = replace(
        pair, test="anytime-valid", p_value=p_value, p_adjusted=p_value, within_reach=True
    )
    different = [(pair.a, pair.b)] if p_value <= comparison.alpha else []
    marks = letters(list(comparison.runs), different)
    return replace(comparison, pairs=(pair,), letters=marks, notes=(note,))


def _named(results: Sequence[Results]) -> dict[str, Results]:
    """Name -> results; policies of one name also carry their folders.

    Raises ComparisonError if a run is given twice.
    """
    folders = [result.folder.resolve() for result in results if result.folder]
    twice = [folder for folder, count in Counter(folders).items() if count > 1]
    if twice:
        raise ComparisonError(f"{twice[0]} is given twice: a run cannot be compared with itself")
    counts = Counter(result.policy for result in results)
    names: dict[str, Results] = {}
    for number, result in enumerate(results, start=1):
        name = result.policy
        if counts[name] > 1:
            folder = result.folder.name if result.folder else ""
            name = f"{result.policy} ({folder or f'run {number}'})"
        # two folders may have one name too: a/eval and b/eval
        if name in names:
            name = f"{result.policy} (run {number})"
        names[name] = result
    return names


def _pair(
    a: str,
    b: str,
    runs: Mapping[str, Results],
    alpha: float,
) -> dict[str, Any]:
    """The fields of a `Pair`, but for the adjusted p-value."""
    of_a, of_b = _outcomes(runs[a]), _outcomes(runs[b])
    # the same task, episode and seed: the same start
    common = [key for key in of_a if key in of_b]
    if common:
        # only shared episodes count: the others may be easier ones
        of_a = {key: of_a[key] for key in common}
        of_b = {key: of_b[key] for key in common}
    n_a, n_b = len(of_a), len(of_b)
    s_a, s_b = sum(of_a.values()), sum(of_b.values())
    wins = sum(of_a[key] and not of_b[key] for key in common)
    losses = sum(of_b[key] and not of_a[key] for key in common)
    ties = len(common) - wins - losses
    if common:
        p_value = mcnemar_exact(wins, losses, ties)
        better = paired_probability_of_improvement(wins, losses, ties)
        within_reach = wins + losses >= minimum_pairs(alpha)
    else:
        p_value = barnard(s_a, n_a, s_b, n_b)
        better = probability_of_improvement(s_a, n_a, s_b, n_b)
        # the most extreme outcome that there is: all against none
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


def _outcomes(result: Results) -> dict[Key, bool]:
    return {key: record.success_ever for key, record in episodes_by_key(result).items()}


def _interval(
    of_a: Mapping[Key, bool],
    of_b: Mapping[Key, bool],
    *,
    paired: bool,
) -> tuple[tuple[float, float], str]:
    """95 % interval of the difference, and what it is drawn over.

    A bootstrap of a few tasks would say little.
    """
    tasks_a, tasks_b = _by_task(of_a), _by_task(of_b)
    # the bootstrap weighs tasks alike, the difference weighs episodes alike: with equal
    # sizes these are the same number
    sizes = {len(values) for values in (*tasks_a.values(), *tasks_b.values())}
    same_sizes = len(sizes) == 1
    if tasks_a.keys() == tasks_b.keys() and len(tasks_a) >= BOOTSTRAP_TASKS and same_sizes:
        low, high = clustered_bootstrap_difference(tasks_a, tasks_b, paired=paired)
        if low < high:  # where every episode says the same, resampling knows no doubt
            return (low, high), "tasks"
    if not paired:
        s_a, s_b = sum(of_a.values()), sum(of_b.values())
        return newcombe_interval(s_a, len(of_a), s_b, len(of_b)), "episodes"
    table = Counter((of_a[key], of_b[key]) for key in of_a)
    both, neither = table[True, True], table[False, False]
    only_a, only_b = table[True, False], table[False, True]
    return newcombe_paired_interval(both, only_a, only_b, neither), "episodes"


def _by_task(outcomes: Mapping[Key, bool]) -> dict[str, list[float]]:
    """Task -> its outcomes, 0 or 1; of paired runs in the same order for both."""
    tasks: dict[str, list[float]] = {}
    for (task, _, _), solved in outcomes.items():
        tasks.setdefault(task, []).append(float(solved))
    return tasks


def _too_few(pairs: Sequence[Pair], alpha: float) -> list[str]:
    """Says which pairs could not have been significant whatever happened,
    and what they would need."""
    needed, notes = minimum_pairs(alpha), []
    for pair in pairs:
        if pair.within_reach:
            continue
        if pair.test == "Barnard":
            n_a, n_b = pair.episodes
            text = f"{n_a} and {n_b} unpaired episodes cannot reach p <= {alpha:g}; play more"
        elif pair.episodes[0] < needed:
            text = (
                f"{pair.episodes[0]} paired episodes cannot reach p <= {alpha:g}; "
                f"the exact test needs at least {needed}"
            )
        else:
            differing = pair.wins + pair.losses
            text = (
                f"only {differing} of {pair.episodes[0]} paired episodes were solved by one policy "
                f"alone; the exact test needs {needed} such episodes to reach p <= {alpha:g}"
            )
        notes.append(f"{pair.a} and {pair.b}: {text}")
    return notes


def _stopped(runs: Mapping[str, Results]) -> list[str]:
    """A note on runs that their own outcomes ended."""
    names = [name for name, result in runs.items() if result.stopped_by]
    if not names:
        return []
    reason = runs[names[0]].stopped_by
    return [
        f"{', '.join(names)}: the number of episodes was decided by the outcomes ({reason}); "
        "p-values of a test with a fixed number of episodes are too small for such runs"
    ]


def letters(
    names: Sequence[str],
    different: Iterable[tuple[str, str]],
) -> dict[str, str]:
    """Compact letter display: two names share a letter just if their pair is not in `different`.

    Insert and absorb (Piepho 2004): begin with one letter for all; a pair that differs splits
    every letter that both have; letters whose names are all under another letter go. Letters
    follow the order of `names`.
    """
    groups = [frozenset(names)]  # the names under each letter
    for a, b in different:
        split: list[frozenset[str]] = []
        for group in groups:
            if {a, b} <= group:
                split += [group - {a}, group - {b}]
            else:
                split.append(group)
        # absorbed after every pair, not at the end: the number of groups
        # would double with each pair
        unique = list(dict.fromkeys(split))
        groups = [group for group in unique if not any(group < other for other in unique)]
    rank = {name: i for i, name in enumerate(names)}
    groups.sort(key=lambda group: sorted(rank[name] for name in group))
    found = dict.fromkeys(names, "")
    for i, group in enumerate(groups):
        for name in group:
            found[name] += _letter(i)
    return found


def _letter(index: int) -> str:
    """a to z, then (27), (28) and so on."""
    return chr(ord("a") + index) if index < 26 else f"({index + 1})"
