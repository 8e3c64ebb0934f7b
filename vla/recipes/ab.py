"""An A/B comparison that stops as soon as it has decided.

Both policies play the same episodes, block by block.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vla.common.folder_lock import alone
from vla.config import UserError, check_config
from vla.recipes.evaluate import Baseline, load_actor
from vla.sim_eval.comparison.comparison import Comparison, compare, decided_sequentially
from vla.sim_eval.comparison.results import Results
from vla.sim_eval.evaluation import (
    LOCK_FILE,
    EvalConfig,
    check_playable,
    command_for,
    episode_progress,
    naming,
    play,
    policy_name,
    save_config,
    save_results,
    training_of,
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
        self,
        actor: Actor | Baseline,
        config: EvalConfig,
        label: str,
        policy: str,
    ) -> None:
        out = str(Path(config.out) / label)
        own = config.model_copy(update={"out": out, "policy": policy})
        self.actor = actor
        self.name = policy_name(policy)
        self.config = naming(actor, own)
        self.records: list[EpisodeRecord] = []
        self.stats = RolloutStats()
        self.seconds = 0.0

    def play(self, block: range, progress: bool) -> dict[tuple[str, int], bool]:
        """Plays the block; (task, episode) -> solved."""
        started = time.monotonic()
        # the bar counts the episodes of this block
        shown = self.config.model_copy(update={"episodes_per_task": len(block)})
        title = f"{self.name}, episodes {block.start} to {block.stop - 1}"
        with episode_progress(title, shown, show=progress) as on_done:
            records = play(self.actor, self.config, block, on_done=on_done, stats=self.stats)
        self.seconds += time.monotonic() - started
        self.records += records
        return {(record.task, record.episode): record.success_ever for record in records}

    def save(self, episodes_per_task: int, command: str | None) -> Results:
        """Writes what was played as an evaluation of that many episodes per task."""
        config = self.config.model_copy(update={"episodes_per_task": episodes_per_task})
        tasks = [task.name for task in config.env.suite().tasks]

        def place(record: EpisodeRecord) -> tuple[int, int]:
            return tasks.index(record.task), record.episode

        # block by block they were played, task by task an evaluation has them
        records = sorted(self.records, key=place)
        save_config(config)
        return save_results(
            records,
            config,
            name=self.name,
            command=command or command_for(self.actor, config),
            seconds=self.seconds,
            losses=self.stats.lost,
            stopped_by=STOPPED_BY,
            training=training_of(self.actor),
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
    """Plays both policies on the same seeds in growing blocks, until they differ significantly.

    Between blocks the pairs go to an anytime-valid test (`SequentialComparison`) in an order drawn
    at random, so that equal policies are called different with a chance of at most `alpha`, however
    many blocks are played.

    Args:
        config: what is played; `<out>` gets a folder for each policy, compare.json and report.html.
        policies: what the configs of the two runs name: "expert", "random", or folders.
        max_episodes_per_task: where to give up; default `config.episodes_per_task`.
        batch: episodes per task of the first block; default `config.batch_size`, of which it had
            better be a multiple: then the episodes are the very ones that `vla eval` plays.
        command: what to type to measure again.

    Raises UserError if a number makes no sense, and what `evaluate` raises.
    """
    check_config(config, EvalConfig)
    limit = config.episodes_per_task if max_episodes_per_task is None else max_episodes_per_task
    batch = config.batch_size if batch is None else batch
    _check_numbers(alpha, batch, limit)
    policy_a, policy_b = policies
    sides = (_Side(actor_a, config, "a", policy_a), _Side(actor_b, config, "b", policy_b))
    for side in sides:  # both, before the first of them plays
        check_playable(side.actor, side.config)
    with alone(Path(config.out), file=LOCK_FILE):
        return _play_until_decided(sides, config, alpha, limit, batch, progress, command)


def _play_until_decided(
    sides: tuple[_Side, _Side],
    config: EvalConfig,
    alpha: float,
    limit: int,
    batch: int,
    progress: bool,
    command: str | None,
) -> SequentialResult:
    test = SequentialComparison()
    played = 0
    for block in blocks(limit, batch):
        of_a, of_b = (side.play(block, progress) for side in sides)
        pairs = sorted(of_a)
        # The p-value is that of the highest wealth on the way, so the order of the pairs matters:
        # task by task, a difference in the first task alone could decide. Drawn from seed and
        # block, it depends on nothing that was played, which keeps the bet fair.
        rng = np.random.default_rng((config.seed, block.start))
        for i in rng.permutation(len(pairs)):
            pair = pairs[i]
            test.update(of_a[pair], of_b[pair])
        played = block.stop
        if test.decided(alpha):
            break
    a, b = (side.save(played, command) for side in sides)
    note = (
        f"played {played} of at most {limit} episodes per task; the p-value allows for stopping "
        "when it pleases, the interval does not"
    )
    fixed_size = compare([a, b], alpha=alpha)
    comparison = decided_sequentially(fixed_size, test.p_value, note)
    comparison.save(config.out)
    write_report(Path(config.out) / "report.html", [a, b], comparison=comparison)
    return SequentialResult(a, b, comparison, test.decided(alpha), played, limit)


def _check_numbers(alpha: float, batch: int, limit: int) -> None:
    if not 0 < alpha < 1 or batch < 1 or limit < 1:
        raise UserError(
            f"alpha is {alpha:g}, batch {batch} and the most episodes per task {limit}: expected "
            "alpha between 0 and 1, the others 1 or more"
        )


def blocks(limit: int, batch: int) -> Iterator[range]:
    """Ranges of episodes: a block is a multiple of `batch`, and about half of what was played."""
    done = 0
    while done < limit:
        # short at first, since a large difference shows at once; longer later, since every block
        # starts its workers again
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
    """`compare_sequentially` of named policies.

    A name is "expert", "random", a policy folder or a hub repository. Raises UserError if both are
    the same, CheckpointError if one cannot be loaded.
    """
    if policy_a == policy_b:
        raise UserError(f"both policies are {policy_a!r}: name two different ones")
    actor_a, actor_b = (
        load_actor(policy, threads=config.threads) for policy in (policy_a, policy_b)
    )
    return compare_sequentially(
        actor_a, actor_b, config, policies=(policy_a, policy_b), alpha=alpha, command=command
    )
