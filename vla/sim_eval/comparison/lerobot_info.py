"""Results in the form of LeRobot's evaluations, so that tools made for those read ours.

`eval_info.json` as `lerobot-eval` of lerobot 0.4.4 writes it: successes and rewards of each task's
episodes, and their means by group and overall. Rates are in percent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vla.sim_eval.rollouts.jobs import EpisodeRecord

EVAL_INFO_FILE = "eval_info.json"


def eval_info(
    tasks: dict[str, list[EpisodeRecord]],
    groups: dict[str, list[EpisodeRecord]],
    seconds: float,
) -> dict[str, Any]:
    """What `eval_info.json` holds, as JSON types.

    Args:
        tasks, groups: name -> episodes; a task's number there is its place in the suite.
        seconds: wall time of all episodes.
    """
    per_task = [
        {"task_group": records[0].group, "task_id": number, "metrics": _episodes(records)}
        for number, records in enumerate(tasks.values())
    ]
    every = [record for records in tasks.values() for record in records]
    return {
        "per_task": per_task,
        "per_group": {name: _means(records) for name, records in groups.items()},
        "overall": {
            **_means(every),
            "eval_s": round(seconds, 3),
            "eval_ep_s": round(seconds / len(every), 3),
        },
    }


def _episodes(records: Sequence[EpisodeRecord]) -> dict[str, list[Any]]:
    """A number for each episode, in their order."""
    return {
        "sum_rewards": [record.return_ for record in records],
        # null where it is not known: results of earlier versions do not say it
        "max_rewards": [record.max_reward for record in records],
        "successes": [record.success_ever for record in records],
        "video_paths": [record.video for record in records if record.video],
    }


def _means(records: Sequence[EpisodeRecord]) -> dict[str, Any]:
    found = _episodes(records)
    known = [reward for reward in found["max_rewards"] if reward is not None]
    return {
        "avg_sum_reward": _mean(found["sum_rewards"]),
        "avg_max_reward": _mean(known) if known else None,
        "pc_success": 100.0 * _mean(found["successes"]),
        "n_episodes": len(records),
        "video_paths": found["video_paths"],
    }


def _mean(values: Sequence[float]) -> float:
    return float(sum(values)) / len(values)


__all__ = ["EVAL_INFO_FILE", "eval_info"]
