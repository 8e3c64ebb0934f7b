"""What an evaluation found: one record per episode, the rates that follow, and their files."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from vla.common.atomic import atomic_path
from vla.common.versions import installed_versions
from vla.sim_eval.comparison.installing import place_of_results
from vla.sim_eval.comparison.lerobot_info import EVAL_INFO_FILE, eval_info
from vla.sim_eval.comparison.stored import ResultsError as ResultsError
from vla.sim_eval.comparison.stored import read_episodes, read_results
from vla.sim_eval.rollouts.jobs import EpisodeRecord
from vla.sim_eval.statistics import macro_rate, wilson_interval

RESULTS_FILE = "results.json"
EPISODES_FILE = "episodes.parquet"


@dataclass(frozen=True)
class Results:
    """One policy, measured on one suite.

    Attributes:
        policy: name of the policy in tables.
        suite: name of the suite.
        episodes: at least one record.
        versions: what else decides the numbers: libraries, simulator, renderer.
        config: the evaluation's config as plain JSON types.
        command: what to type to measure again.
        seconds: wall time.
        folder: where the files (and the videos that the records name) lie; None before they are
            saved.
        training: by which training the policy was made: `seed`, `objective`, `method`, `origin`
            and `training` as its card has them; empty for baselines and policies that do not say.
        stopped_by: what ended the evaluation because of its outcomes; empty if the
            number of episodes was fixed.
        losses: a line for each worker that died or hung meanwhile; others
            led its episodes to their ends.
        identity: hash of all that decided the numbers; empty if it is not known.
    """

    policy: str
    suite: str
    episodes: tuple[EpisodeRecord, ...]
    versions: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""
    seconds: float = 0.0
    folder: Path | None = None
    losses: tuple[str, ...] = ()
    stopped_by: str = ""
    training: Mapping[str, Any] = field(default_factory=dict)
    identity: str = ""

    def __post_init__(self) -> None:
        if not self.episodes:
            raise ValueError(
                f"results of {self.policy!r} hold no episode: there is nothing to average"
            )

    @property
    def tasks(self) -> dict[str, list[EpisodeRecord]]:
        """Task -> its episodes, in the order of the suite."""
        return _by(self.episodes, "task")

    @property
    def groups(self) -> dict[str, list[EpisodeRecord]]:
        """The episodes by the group of their task."""
        return _by(self.episodes, "group")

    @property
    def rate(self) -> float:
        """Success rate in which every episode weighs the same."""
        return summary(self.episodes)["rate"]

    @property
    def macro_rate(self) -> float:
        """Success rate in which every group weighs the same."""
        # as Meta-World's rates are published: its easy group has 28 tasks, its very hard one 5
        return macro_rate(summary(records)["rate"] for records in self.groups.values())

    @property
    def has_rewards(self) -> bool:
        """Whether the envs gave any reward: then returns say something."""
        # an env without rewards gives 0 at every step
        return any(record.return_ for record in self.episodes)

    @property
    def steps(self) -> int:
        """Control steps that were played."""
        return sum(record.steps for record in self.episodes)

    def to_dict(self) -> dict[str, Any]:
        """What `results.json` holds.

        Rates count a success at any step; `at_end` counts the last step alone.
        """
        return {
            "policy": self.policy,
            "suite": self.suite,
            "training": dict(self.training),
            "overall": summary(self.episodes),
            "macro_rate": self.macro_rate,
            "groups": {name: summary(records) for name, records in self.groups.items()},
            "tasks": {name: summary(records) for name, records in self.tasks.items()},
            "versions": dict(self.versions),
            "returns": self._returns() if self.has_rewards else None,
            "at_end": summary(self.episodes, "success_at_end"),
            "steps": self.steps,
            "seconds": round(self.seconds, 3),
            "lost_workers": len(self.losses),
            "losses": list(self.losses),
            "stopped_by": self.stopped_by,
            "command": self.command,
            "identity": self.identity,
            "config": dict(self.config),
        }

    def _returns(self) -> dict[str, Any]:
        return {
            "overall": returns(self.episodes),
            "groups": {name: returns(records) for name, records in self.groups.items()},
            "tasks": {name: returns(records) for name, records in self.tasks.items()},
        }

    def table(self) -> Any:
        """A rich table for the terminal: rate, counts, interval and, if there are rewards, the mean
        return, of the whole, the groups and the tasks."""
        from vla.common.terminal.tables import Table, whole

        more = ["return (mean ± sd)"] if self.has_rewards else []
        caption = f"workers lost and replaced: {len(self.losses)}" if self.losses else None
        title = f"{self.policy} on {self.suite}"
        heads = whole("", "rate", "solved", "95 % interval", *more)
        table = Table(*heads, title=title, caption=caption)
        rows = [("all episodes", list(self.episodes)), *self.groups.items()]
        rows += [(f"  {name}", records) for name, records in self.tasks.items()]
        for name, records in rows:
            values = summary(records)
            low, high = values["wilson95"]
            counts = f"{values['successes']}/{values['episodes']}"
            found = returns(records)
            more = [f"{found['mean']:.1f} ± {found['sd']:.1f}"] if self.has_rewards else []
            table.add_row(name, f"{values['rate']:.2f}", counts, f"{low:.2f} to {high:.2f}", *more)
        table.add_row("mean of groups", f"{self.macro_rate:.2f}", "", "")
        return table

    def save(self, folder: str | Path) -> Path:
        """Writes `results.json`, `episodes.parquet` and `eval_info.json`, LeRobot's form of them;
        each appears whole or not at all."""
        import pandas as pd

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        table = pd.DataFrame([asdict(record) for record in self.episodes])
        # the attribute has an underscore because `return` is a keyword
        table = table.rename(columns={"return_": "return"})
        # several evaluations' tables can be joined into one
        table.insert(0, "policy", self.policy)
        with atomic_path(folder / EPISODES_FILE) as path:
            table.to_parquet(path, index=False)
        info = eval_info(self.tasks, self.groups, self.seconds)
        with atomic_path(folder / EVAL_INFO_FILE) as path:
            path.write_text(json.dumps(info, indent=2) + "\n")
        # last: a folder with results.json is complete
        with atomic_path(folder / RESULTS_FILE) as path:
            path.write_text(json.dumps(self.to_dict(), indent=2) + "\n")
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Reads what `save` wrote. Raises ResultsError naming what is missing or broken."""
        folder = place_of_results(Path(folder))
        for name in (RESULTS_FILE, EPISODES_FILE):
            if not (folder / name).is_file():
                raise ResultsError(
                    f"{folder / name}: no such file; "
                    f"make it with an evaluation whose out is {folder}"
                )
        stored = read_results(folder / RESULTS_FILE)
        return cls(
            policy=stored.policy,
            suite=stored.suite,
            episodes=read_episodes(folder / EPISODES_FILE),
            versions=stored.versions,
            config=stored.config,
            command=stored.command,
            seconds=stored.seconds,
            folder=folder,
            stopped_by=stored.stopped_by,
            losses=tuple(stored.losses),
            training=stored.training,
            identity=stored.identity,
        )


def summary(
    records: Sequence[EpisodeRecord],
    key: str = "success_ever",
) -> dict[str, Any]:
    """successes, episodes, rate and its 95 % interval, as in `results.json`.

    Raises ValueError without records.
    """
    n = len(records)
    successes = sum(bool(getattr(record, key)) for record in records)
    return {
        "successes": successes,
        "episodes": n,
        "rate": successes / n,
        "wilson95": list(wilson_interval(successes, n)),
    }


def returns(records: Sequence[EpisodeRecord]) -> dict[str, float]:
    """Mean return and its standard deviation over episodes (n - 1; 0 for one).

    Raises ValueError without records.
    """
    values = [record.return_ for record in records]
    # fsum: returns of thousands in any order give the same last digit
    mean = math.fsum(values) / len(values)
    squares = math.fsum((value - mean) ** 2 for value in values)
    variance = squares / max(len(values) - 1, 1)
    return {"mean": mean, "sd": math.sqrt(variance)}


def _by(
    records: Sequence[EpisodeRecord],
    key: str,
) -> dict[str, list[EpisodeRecord]]:
    found: dict[str, list[EpisodeRecord]] = {}
    for record in records:
        found.setdefault(getattr(record, key), []).append(record)
    return found


def library_versions() -> dict[str, str]:
    """Versions of the libraries that can change a measured rate."""
    found = {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
    }
    packages = ("vla", "torch", "transformers", "timm", "numpy", "gymnasium", "mujoco", "metaworld")
    return found | installed_versions(packages)
