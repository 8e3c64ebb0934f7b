"""What forbids to compare two evaluations: other episodes, other
simulators, other rules of the game."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vla.config import UserError
from vla.sim_eval.comparison.results import Results
from vla.sim_eval.rollouts.jobs import EpisodeRecord

# A policy brings these along; all other versions decide what it meets.
_OF_THE_POLICY = {"python", "machine", "torch", "transformers", "timm"}
# By these a policy chooses how it sees and acts: allowed, and noted beside the numbers.
_OWN_CHOICES = {
    "env.image_size",
    "env.cameras",
    "replan_every",
    "ensemble",
    "target_return",
    "temperature",
    "shield.path",
    "shield.samples",
    "shield.threshold",
}
# By these no episode changes, or the change shows in the episodes themselves
# (episodes_per_task, seed).
_FREE_KEYS = {
    "policy",
    "episodes_per_task",
    "seed",
    "workers",
    "num_envs",
    "batch_size",
    "threads",
    "launcher",
    "ray_address",
    "timeout",
    "retries",
    "replan_every",
    "ensemble",
    "temperature",
    "target_return",
    "shield",
    "videos_per_task",
    "failure_videos",
    "out",
}

Key = tuple[str, int, int]
"""Task, episode and seed: two policies that share it met the same start."""


class ComparisonError(UserError):
    """Runs that cannot be compared; the message lists every reason and its remedy."""


@dataclass(frozen=True)
class Difference:
    """One way in which runs differ.

    Attributes:
        what: key or file entry.
        values: what each run has, in words.
        remedy: what to do about it.
    """

    what: str
    values: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}: {self.values}; {self.remedy}"


def episodes_by_key(result: Results) -> dict[Key, EpisodeRecord]:
    """Task, episode and seed -> record, in the order played."""
    return {(record.task, record.episode, record.seed): record for record in result.episodes}


def paired_counts(a: Results, b: Results) -> tuple[int, int, int]:
    """Episodes that only `a` solved, that only `b` solved, and the rest.

    Raises ValueError if the starts are not the same.
    """
    of_a, of_b = episodes_by_key(a), episodes_by_key(b)
    # keys hold the seed: a paired test of different starts would be wrong in silence
    if of_a.keys() != of_b.keys():
        raise ValueError(f"{a.suite} and {b.suite} were not played from the same starts")
    wins, losses = 0, 0
    for key, record in of_a.items():
        wins += record.success_ever and not of_b[key].success_ever
        losses += of_b[key].success_ever and not record.success_ever
    return wins, losses, len(of_a) - wins - losses


def differences(runs: Mapping[str, Results]) -> list[Difference]:
    """Everything that forbids to compare `runs` (name -> results); empty if they are comparable."""
    suites = {name: result.suite for name, result in runs.items()}
    return [
        *_values("suite", suites, "evaluate all policies on one suite"),
        *_tasks(runs),
        *_episodes(runs),
        *_instructions(runs),
        *_versions(runs),
        *_settings(runs),
    ]


def own_choices(runs: Mapping[str, Results]) -> list[str]:
    """In what the policies differ by their own design, such as the size of
    their pictures: worth a note."""
    flat = {name: dict(_flatten(result.config)) for name, result in runs.items()}
    found = []
    for key in sorted(_OWN_CHOICES):
        chosen = {name: values.get(key) for name, values in flat.items()}
        for difference in _values(key, chosen, ""):
            text = f"{difference.what}: {difference.values}"
            found.append(f"{text}; it counts as the policy's own choice")
    return found


def refusal(found: Sequence[Difference]) -> ComparisonError:
    """The error that lists them all: whoever repairs one should not have to find
    the next by running again."""
    lines = "\n".join(f"  {difference}" for difference in found)
    return ComparisonError(
        f"the runs cannot be compared:\n{lines}\n"
        "compare them anyway with --force (force=True); "
        "the differences then stand beside the numbers"
    )


def _values(
    what: str,
    values: Mapping[str, Any],
    remedy: str,
) -> Iterator[Difference]:
    """A difference unless all runs have the same; values are grouped: "3.3.0
    (rt1, octo), 3.2.7 (expert)"."""
    names: dict[str, list[str]] = {}
    for name, value in values.items():
        names.setdefault(_text(value), []).append(name)
    if len(names) > 1:
        groups = [f"{value} ({', '.join(who)})" for value, who in names.items()]
        yield Difference(what, ", ".join(groups), remedy)


def _text(value: Any) -> str:
    text = "not recorded" if value is None else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _tasks(runs: Mapping[str, Results]) -> Iterator[Difference]:
    # a dict, not a set: the message names tasks in the order of the suite
    every = dict.fromkeys(task for result in runs.values() for task in result.tasks)
    texts = []
    for name, result in runs.items():
        lacking = [task for task in every if task not in result.tasks]
        if lacking:
            texts.append(f"{name} lacks {_text(', '.join(lacking))}")
    if texts:
        yield Difference("tasks", ", ".join(texts), "evaluate all policies on the same tasks")


def _episodes(runs: Mapping[str, Results]) -> Iterator[Difference]:
    """Seeds that contradict each other, or episodes that only some runs hold,
    among the tasks that all have."""
    # tasks that some run lacks are a difference of their own
    tasks = set.intersection(*(set(result.tasks) for result in runs.values()))
    keys: dict[str, set[Key]] = {}
    for name, result in runs.items():
        keys[name] = {key for key in episodes_by_key(result) if key[0] in tasks}
    common = set.intersection(*keys.values())
    numbers = [{key[:2] for key in found} for found in keys.values()]  # without the seeds
    seeds: dict[tuple[str, int], set[int]] = {}
    for task, episode, seed in set.union(*keys.values()):
        seeds.setdefault((task, episode), set()).add(seed)
    contradicting = sum(len(found) > 1 for found in seeds.values())
    if contradicting:
        values = f"{contradicting} of {len(seeds)} episodes started from different seeds"
        yield Difference("seeds", values, "evaluate all policies with the same seed")
    elif any(number != numbers[0] for number in numbers):
        counts = ", ".join(f"{len(found)} ({name})" for name, found in keys.items())
        values = f"{counts}, {len(common)} in common"
        yield Difference(
            "episodes", values, "evaluate all policies with the same episodes_per_task"
        )


def _instructions(runs: Mapping[str, Results]) -> Iterator[Difference]:
    given: dict[Key, set[str]] = {}
    for result in runs.values():
        for key, record in episodes_by_key(result).items():
            given.setdefault(key, set()).add(record.instruction)
    several = [texts for texts in given.values() if len(texts) > 1]
    if several:
        # sorted, since a set has no order: the same runs give the same message
        example = " / ".join(repr(text) for text in sorted(several[0])[:2])
        values = f"{len(several)} episodes had different instructions, for example {example}"
        yield Difference("instructions", values, "give all policies the same instructions")


def _versions(runs: Mapping[str, Results]) -> Iterator[Difference]:
    keys = dict.fromkeys(key for result in runs.values() for key in result.versions)
    for key in keys:
        if key not in _OF_THE_POLICY:
            values = {name: result.versions.get(key) for name, result in runs.items()}
            what = f"version of {key}"
            yield from _values(what, values, "evaluate all policies with the same one")


def _settings(runs: Mapping[str, Results]) -> Iterator[Difference]:
    flat = {name: dict(_flatten(result.config)) for name, result in runs.items()}
    keys = dict.fromkeys(key for values in flat.values() for key in values)
    for key in keys:
        free = key in _OWN_CHOICES or key.split(".")[0] in _FREE_KEYS
        # a key that one run lacks is an option of a later version, and the versions show that
        if not free and all(key in values for values in flat.values()):
            chosen = {name: values[key] for name, values in flat.items()}
            yield from _values(key, chosen, f"evaluate all policies with one {key}")


def _flatten(
    config: Mapping[str, Any],
    prefix: str = "",
) -> Iterator[tuple[str, Any]]:
    """("env.image_size", "96"): dotted keys and the values as texts."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", repr(value)
