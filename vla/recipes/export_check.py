"""Whether an exported policy may act in the policy's place: both play the same episodes.

A paired test of non-inferiority: not whether a difference is shown, but whether one that would
matter is ruled out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla.common.errors import UserError
from vla.export.check import check_same
from vla.export.runtime import ExportedPolicy
from vla.models.policy import Policy
from vla.sim_eval.comparison.comparison import Comparison, Pair, compare
from vla.sim_eval.comparison.results import Results
from vla.sim_eval.evaluation import EvalConfig, evaluate
from vla.sim_eval.report import write_report
from vla.sim_eval.statistics import mcnemar_exact
from vla.sim_eval.statistics.newcombe import newcombe_paired_interval

LARGEST_LOSS = 0.05
"""Of the success rate: what a faster policy may cost."""
LEAST_EPISODES = 200
CONFIDENCE = 0.95
POLICY = "policy"
EXPORTED = "exported"


@dataclass(frozen=True)
class NonInferiority:
    """How much worse the exported policy can be.

    Attributes:
        both, only_policy, only_exported, neither: pairs of episodes by who solved them.
        p_value: of McNemar's exact test, that the two are equal.
    """

    both: int
    only_policy: int
    only_exported: int
    neither: int
    p_value: float

    @property
    def episodes(self) -> int:
        """Pairs."""
        return self.both + self.only_policy + self.only_exported + self.neither

    @property
    def loss(self) -> float:
        """Success rate of the policy less that of the exported one."""
        return (self.only_policy - self.only_exported) / self.episodes

    @property
    def largest_loss(self) -> float:
        """Upper bound of the loss, one-sided, 95 % (Newcombe's paired interval)."""
        _, high = newcombe_paired_interval(
            self.both,
            self.only_policy,
            self.only_exported,
            self.neither,
            # both ends of an interval of 90 % are one-sided bounds of 95 %
            confidence=2 * CONFIDENCE - 1,
        )
        return high

    @property
    def passes(self) -> bool:
        """Whether a loss of more than `LARGEST_LOSS` is ruled out."""
        return self.largest_loss <= LARGEST_LOSS

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "episodes": self.episodes,
            "both": self.both,
            "only_policy": self.only_policy,
            "only_exported": self.only_exported,
            "neither": self.neither,
            "loss": self.loss,
            "largest_loss_95": self.largest_loss,
            "allowed_loss": LARGEST_LOSS,
            "p_value": self.p_value,
            "passes": self.passes,
        }

    def sentence(self) -> str:
        """The verdict in one line."""
        verdict = "not worse" if self.passes else "not shown to be as good"
        return (
            f"{verdict}: it loses {self.loss:+.1%} of {self.episodes} paired episodes, at most "
            f"{self.largest_loss:.1%} (95 %, allowed {LARGEST_LOSS:.0%}); only the policy solved "
            f"{self.only_policy}, only the exported one {self.only_exported} (McNemar p = "
            f"{self.p_value:.2g})"
        )


def check_by_episodes(
    policy: Policy,
    exported: ExportedPolicy,
    config: EvalConfig,
    *,
    command: str | None = None,
    resume: bool = False,
) -> NonInferiority:
    """Plays both on the same unseen starts; results, comparison and report lie in `config.out`.

    Raises:
        UserError: fewer than `LEAST_EPISODES` episodes are asked for: they could not rule the loss
            out.
        ExportError: the folder was exported from another policy.
        And what `evaluate` raises.
    """
    tasks = len(config.env.suite().tasks)
    episodes = tasks * config.episodes_per_task
    if episodes < LEAST_EPISODES:
        needed = -(-LEAST_EPISODES // tasks)
        raise UserError(
            f"episodes_per_task: {config.episodes_per_task} of {tasks} tasks are {episodes} "
            f"episodes, expected at least {LEAST_EPISODES}: set episodes_per_task={needed}"
        )
    check_same(policy, exported)
    runs = []
    for name, actor in ((POLICY, policy), (EXPORTED, exported)):
        own = config.model_copy(update={"out": str(Path(config.out) / name)})
        runs.append(evaluate(actor, own, name=name, command=command, resume=resume))
    comparison = compare(runs)
    comparison.save(config.out)
    write_report(Path(config.out) / "report.html", runs, comparison=comparison)
    return _non_inferiority(runs, comparison)


def _non_inferiority(runs: list[Results], comparison: Comparison) -> NonInferiority:
    pair = comparison.pairs[0]
    only_policy, only_exported = _only(pair)
    solved = sum(record.success_ever for record in runs[0].episodes)
    both = solved - only_policy
    return NonInferiority(
        both=both,
        only_policy=only_policy,
        only_exported=only_exported,
        neither=pair.ties - both,
        p_value=mcnemar_exact(only_policy, only_exported, pair.ties),
    )


def _only(pair: Pair) -> tuple[int, int]:
    """Episodes that only the policy, and that only the exported one solved."""
    return (pair.wins, pair.losses) if pair.a == POLICY else (pair.losses, pair.wins)


__all__ = ["LARGEST_LOSS", "LEAST_EPISODES", "NonInferiority", "check_by_episodes"]
