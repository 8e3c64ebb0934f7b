"""Whether evaluations are of different trainings of one method, by what their policies say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from vla.sim_eval.comparison.comparability import ComparisonError, Difference
from vla.sim_eval.comparison.results import Results

Methods = Mapping[str, Sequence[Results]]
"""Name of a method -> evaluations of its trainings."""


def check_used_once(methods: Methods) -> None:
    """Raises ComparisonError if a run is given twice."""
    folders: Counter[str] = Counter()
    for runs in methods.values():
        folders.update(str(run.folder.resolve()) for run in runs if run.folder)
    twice = [folder for folder, count in folders.items() if count > 1]
    if twice:
        raise ComparisonError(f"{twice[0]} is given twice: each run is one training; leave one out")


def check_trainings(methods: Methods) -> Iterator[Difference]:
    """What forbids to take the groups for methods: one training, the same one twice, several
    methods in one group, one method in two groups."""
    for name, runs in methods.items():
        yield from _number(name, runs)
        yield from _mixed(name, runs)
    yield from _twice(methods)
    yield from _shared(methods)


def share_origins(a: Sequence[Results], b: Sequence[Results]) -> bool:
    """Whether training i of both methods continues from the same policy, for every i: in the order
    of the runs, which `by_origin` gives."""
    of_a, of_b = _origins(a), _origins(b)
    return bool(of_a) and of_a == of_b and len(set(of_a)) == len(of_a)


def by_origin(runs: Iterable[Results]) -> tuple[Results, ...]:
    """The runs in the order of the policies that they continue from, where all say so."""
    listed = tuple(runs)
    if not _origins(listed):
        return listed
    return tuple(sorted(listed, key=lambda run: str(run.training["origin"])))


def grouped_by_method(runs: Sequence[Results]) -> dict[str, tuple[Results, ...]]:
    """The runs of each method, by the settings of their trainings; named by their objective.

    Raises ComparisonError if a run does not say by which method it was trained.
    """
    groups: dict[str, list[Results]] = {}
    for run in runs:
        method = run.training.get("method")
        if method is None:
            raise ComparisonError(
                f"{run.folder or run.policy}: does not say by which method it was trained; name "
                "the groups, as in iql=RUN,RUN bc=RUN,RUN"
            )
        groups.setdefault(str(method), []).append(run)
    objectives = {method: str(found[0].training["objective"]) for method, found in groups.items()}
    counts = Counter(objectives.values())
    named = {}
    for method, found in groups.items():
        name = objectives[method]
        # two settings of one objective are two methods
        named[name if counts[name] == 1 else f"{name} {method[:4]}"] = tuple(found)
    return named


def _origins(runs: Sequence[Results]) -> list[str]:
    """The policy that each run continues from; empty if any does not say, or begins at random."""
    found = [str(run.training.get("origin", "")) for run in runs]
    return [] if any(origin in ("", "unknown") for origin in found) else found


def _number(name: str, runs: Sequence[Results]) -> Iterator[Difference]:
    if len(runs) == 1:
        yield Difference(
            name,
            "one training, which says nothing of the method: another seed may give another order",
            "train it with other seeds (seed=1), or compare the networks: vla compare RUN RUN",
        )


def _mixed(name: str, runs: Sequence[Results]) -> Iterator[Difference]:
    """Runs of one group whose trainings differ in more than the seed."""
    labels: dict[str, list[str]] = {}
    for run in runs:
        if run.training:
            label = f"{run.training['objective']} {str(run.training['method'])[:4]}"
            labels.setdefault(label, []).append(f"seed {run.training['seed']}")
    if len(labels) > 1:
        groups = [f"{label} ({', '.join(seeds)})" for label, seeds in labels.items()]
        remedy = "give trainings that differ in nothing but the seed"
        yield Difference(name, f"trainings of several methods, {', '.join(groups)}", remedy)


def _twice(methods: Methods) -> Iterator[Difference]:
    counts: Counter[str] = Counter()
    for runs in methods.values():
        counts.update(str(run.training["training"]) for run in runs if run.training)
    twice = [training for training, count in counts.items() if count > 1]
    if twice:
        runs_of = [
            f"{name} seed {run.training['seed']}"
            for name, runs in methods.items()
            for run in runs
            if run.training.get("training") == twice[0]
        ]
        remedy = "evaluate trainings of different seeds"
        yield Difference("training", f"the same one in {' and '.join(runs_of)}", remedy)


def _shared(methods: Methods) -> Iterator[Difference]:
    names: dict[str, list[str]] = {}
    for name, runs in methods.items():
        for method in {str(run.training["method"]) for run in runs if run.training}:
            names.setdefault(method, []).append(name)
    for found in names.values():
        if len(found) > 1:
            remedy = "put their runs into one group"
            yield Difference("method", f"{' and '.join(found)} were trained alike", remedy)
