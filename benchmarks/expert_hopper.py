"""What SAC of stable-baselines3 reaches on hopper, as policies of this package, and datasets of its snapshots.

    python benchmarks/expert_hopper.py [--run runs/expert_hopper] [--data data/expert_hopper] [--episodes 20]

Trains `configs/expert_hopper.yaml` unless the run is there already, then collects a dataset of each snapshot, with sampled
actions. Writes results/expert_hopper.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from _common import prepare_cpu, publish

CONFIG = Path(__file__).parents[1] / "configs" / "expert_hopper.yaml"
RANDOM = "random"
"""Snapshot that no dataset is made of: random actions need no policy."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, default=Path("runs/expert_hopper"))
    parser.add_argument("--data", type=Path, default=Path("data/expert_hopper"))
    parser.add_argument("--episodes", type=int, default=20, help="of each dataset")
    arguments = parser.parse_args()
    prepare_cpu(1)

    found = trained(arguments.run)
    names = [row["name"] for row in found["snapshots"] if row["name"] != RANDOM]
    datasets = {
        name: dataset(arguments.run / "policies" / name, arguments.data / name, arguments.episodes)
        for name in names
    }
    publish(
        "expert_hopper",
        ours=found["snapshots"][-1]["return"],
        theirs=None,
        ratio=None,
        unit="return",
        table=table(found, datasets),
        algorithm=found["algorithm"],
        steps=found["steps"],
        snapshots=found["snapshots"],
        datasets=datasets,
    )


def trained(run: Path) -> dict[str, Any]:
    """`expert.json` of a finished run, which is made if it is missing."""
    from vla.config import load_config
    from vla.recipes.experts.config import ExpertConfig
    from vla.recipes.experts.run import RESULT_FILE, train_expert

    file = run / RESULT_FILE
    if not file.exists() or not json.loads(file.read_text())["finished"]:
        config = load_config(ExpertConfig, CONFIG, [f"out={run}"], section="expert")
        train_expert(config, restart=True)
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def dataset(policy: Path, out: Path, episodes: int) -> dict[str, Any]:
    """Steps and returns of the episodes of one snapshot, its actions sampled."""
    from vla.config import load_config
    from vla.data import EpisodeDataset
    from vla.sim_eval import CollectConfig, collect

    behaviour = json.dumps([{"path": str(policy), "share": 1.0, "temperature": 1.0}])
    overrides = [
        f"behaviours.policies={behaviour}",
        f"episodes_per_task={episodes}",
        f"out={out}",
        "workers=1",
    ]
    collect(load_config(CollectConfig, CONFIG, overrides, section="collect"), resume=out.exists())
    made = EpisodeDataset(out)
    returns = []
    for row in made.episodes.itertuples():
        rewards = made.columns.rewards[row.first_frame : row.first_frame + row.length]
        returns.append(float(rewards.sum()))
    return {
        "episodes": len(returns),
        "steps": int(made.episodes["length"].sum()),
        "return": sum(returns) / len(returns),
        "least": min(returns),
        "greatest": max(returns),
    }


def table(found: dict[str, Any], datasets: dict[str, dict[str, Any]]) -> Any:
    from rich.table import Table

    shown = Table("snapshot", "env steps", "return", "episodes of its dataset", "their return")
    for row in found["snapshots"]:
        made = datasets.get(row["name"])
        shown.add_row(
            row["name"],
            str(row["step"]),
            f"{row['return']:.0f} +- {row['return_deviation']:.0f}",
            "" if made is None else str(made["episodes"]),
            "" if made is None else f"{made['return']:.0f}",
        )
    return shown


if __name__ == "__main__":
    main()
