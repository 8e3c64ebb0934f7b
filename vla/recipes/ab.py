"""An A/B comparison that stops as soon as it has decided: both policies play the same episodes, block by block."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vla.config import UserError, check_config
from vla.recipes.evaluate import Baseline, load_actor
from vla.sim_eval.comparison.comparison import Comparison, compare, decided_sequentially
from vla.sim_eval.comparison.results import Results
from vla.sim_eval.evaluation import (
    EvalConfig,
    check_playable,
    command_for,
    naming,
    play,
    policy_name,
    progress_bar,
    save_config,
    save_results,
)
from vla.sim_eval.report import write_report
from vla.sim_eval.rollouts.jobs import EpisodeRecord
from vla.sim_eval.rollouts.scheduler import RolloutStats
from vla.sim_eval.statistics import SequentialComparison
from vla.types import Actor

STOPPED_BY = "a sequential comparison"


@dataclass(frozen=True)
class SequentialResult:
    """What came of it.

    Attributes:
        a, b: the results, saved in `<out>/a` and `<out>/b` like those of any evaluation.
        comparison: their comparison, with the p-value that stays right however often one looked.
        decided: whether the policies differ at `alpha`.
        episodes_per_task: what was played; the rest was saved.
        limit: what would have been played at most.
    """

    a: Results
    b: Results
    comparison: Comparison
    decided: bool
    episodes_per_task: int
    limit: int


class _Side:
    """One of the two policies and what it has played so far."""

    def __init__(
        self, actor: Actor | Baseline, config: EvalConfig, label: str, policy: str, name: str
    ) -> None:
        out = str(Path(config.out) / label)
        self.actor, self.name = actor, name
        self.config = naming(actor, config.model_copy(update={"out": out, "policy": policy}))
        self.records: list[EpisodeRecord] = []
        self.seconds, self.stats = 0.0, RolloutStats()

    def play(self, block: range, progress: bool) -> dict[tuple[str, int], bool]:
        """Plays the block; (task, episode) -> solved."""
        started = time.monotonic()
        shown = self.config.model_copy(update={"episodes_per_task": len(block)})
        with progress_bar(
            f"{self.name}, episodes {block.start} to {block.stop - 1}", shown, show=progress
        ) as on_done:
            records = play(self.actor, self.config, block, on_done=on_done, stats=self.stats)
        self.seconds += time.monotonic() - started
        self.records += records
        return {(record.task, record.episode): record.success_ever for record in records}

    def save(self, episodes_per_task: int, command: str | None) -> Results:
        config = self.config.model_copy(update={"episodes_per_task": episodes_per_task})
        order = {task.name: i for i, task in enumerate(config.env.suite().tasks)}
        records = sorted(self.records, key=lambda record: (order[record.task], record.episode))
        save_config(config)
        return save_results(
            records,
            config,
            name=self.name,
            command=command or command_for(self.actor, config),
            seconds=self.seconds,
            losses=self.stats.lost,
            stopped_by=STOPPED_BY,
        )


def compare_sequentially(
    actor_a: Actor | Baseline,
    actor_b: Actor | Baseline,
    config: EvalConfig,
    *,
    policies: tuple[str, str] = ("a", "b"),
    alpha: float = 0.05,
    max_episodes_per_task: int | None = None,
    batch: int | None = None,
    progress: bool = True,
    command: str | None = None,
) -> SequentialResult:
    """Plays both policies on the same seeds in growing blocks and stops when they differ significantly.

    Between blocks the pairs go to an anytime-valid test (`SequentialComparison`) in an order drawn at random, so that
    equal policies are called different with a chance of at most `alpha`, however many blocks are played.

    Args:
        config: what is played; `<out>` gets a folder for each policy, compare.json and report.html.
        policies: what the configs of the two runs name: "expert", "random", or folders.
        max_episodes_per_task: where to give up; default `config.episodes_per_task`.
        batch: episodes per task of the first block; default `config.batch_size`, of which it had better be a multiple:
            then the episodes are the very ones that `vla eval` plays.
        command: what to type to measure again.

    Raises UserError where a number makes no sense, and what `evaluate` raises.
    """
    check_config(config, EvalConfig)
    limit = config.episodes_per_task if max_episodes_per_task is None else max_episodes_per_task
    batch = config.batch_size if batch is None else batch
    if not 0 < alpha < 1 or batch < 1 or limit < 1:
        raise UserError(
            f"alpha is {alpha:g}, batch {batch} and the most episodes per task {limit}: expected alpha between 0 and 1, "
            "the others 1 or more"
        )
    names = tuple(policy_name(policy) for policy in policies)
    sides = [
        _Side(actor, config, label, policy, name)
        for actor, label, policy, name in zip(
            (actor_a, actor_b), ("a", "b"), policies, names, strict=True
        )
    ]
    for side in sides:  # both, before the first of them plays
        check_playable(side.actor, side.config)
    test, played = SequentialComparison(), 0
    for block in blocks(limit, batch):
        of_a, of_b = (side.play(block, progress) for side in sides)
        keys = sorted(of_a)
        for i in np.random.default_rng((config.seed, block.start)).permutation(len(keys)):
            test.update(of_a[keys[i]], of_b[keys[i]])
        played = block.stop
        if test.decided(alpha):
            break
    a, b = (side.save(played, command) for side in sides)
    note = (
        f"played {played} of at most {limit} episodes per task; the p-value allows for stopping when it pleases, the "
        "interval does not"
    )
    comparison = decided_sequentially(compare([a, b], alpha=alpha), test.p_value, note)
    comparison.save(config.out)
    write_report(Path(config.out) / "report.html", [a, b], comparison=comparison)
    return SequentialResult(a, b, comparison, test.decided(alpha), played, limit)


def blocks(limit: int, batch: int) -> Iterator[range]:
    """Ranges of episodes: a block is a multiple of `batch`, and about half of what was played before it."""
    done = 0
    while done < limit:
        size = max(batch, done // 2 // batch * batch)
        yield range(done, min(done + size, limit))
        done += size


def compare_policies_sequentially(
    policy_a: str,
    policy_b: str,
    config: EvalConfig,
    *,
    alpha: float = 0.05,
    command: str | None = None,
) -> SequentialResult:
    """`compare_sequentially` of policies that are named: "expert", "random", a policy folder or a hub repository.

    Raises UserError where both are the same, CheckpointError where one cannot be loaded.
    """
    if policy_a == policy_b:
        raise UserError(f"both policies are {policy_a!r}: name two different ones")
    actor_a, actor_b = (load_actor(policy) for policy in (policy_a, policy_b))
    return compare_sequentially(
        actor_a, actor_b, config, policies=(policy_a, policy_b), alpha=alpha, command=command
    )
