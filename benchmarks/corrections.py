"""Corrections against more demonstrations: Fetch's pick-and-place from 20 demonstrations (configs/fetch_dagger.yaml).

    python benchmarks/corrections.py [--variants dagger ...] [--seeds 3] [--episodes 200]

Each seed has a clone of the 20 demonstrations of its own; DAgger and its gated form go on from the same clones. The control that they have to beat is a
clone of as many labelled steps by the expert alone (140 demonstrations), with as many updates. All play the same unseen starts. What is
done lies in runs/corrections and is not repeated. Writes results/corrections.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from _common import prepare_cpu, publish
from _variants import compared, learn_and_play, outcomes

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "fetch_dagger.yaml"
DEMONSTRATIONS = {"clone": 20, "demonstrations": 140}
UPDATES = {"clone": 2000, "demonstrations": 8000}
TITLES = {
    "clone": "20 demonstrations",
    "demonstrations": "140 demonstrations",
    "dagger": "20 demonstrations, then DAgger",
    "corrections": "20 demonstrations, then corrections alone",
    "stopped": "DAgger, episodes end where nothing moves",
}
ONLINE: dict[str, list[str]] = {
    "dagger": [],
    "corrections": [
        "label={gate: {type: expert_error, threshold: 0.5}, hold: 2, learn: corrections}"
    ],
    "stopped": ["act.stop_if_stuck={steps: 8, tolerance: 0.002}"],
}
"""name -> overrides of the config."""
TASK = "pick-and-place"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variants", nargs="+", choices=ONLINE, default=["dagger", "corrections"])
    parser.add_argument("--seeds", type=int, default=3, help="clones, and runs of each variant")
    parser.add_argument("--episodes", type=int, default=200, help="unseen starts of each policy")
    parser.add_argument("--runs", type=Path, default=Path("runs/corrections"))
    arguments = parser.parse_args()
    prepare_cpu(1)

    names = [*DEMONSTRATIONS, *arguments.variants]
    found: dict[str, dict[str, Any]] = {name: {"solved": {}, "labels": {}} for name in names}
    played = [f"episodes_per_task={arguments.episodes}"]
    data = {name: demonstrations(name, arguments.runs) for name in DEMONSTRATIONS}
    for seed in range(1, arguments.seeds + 1):
        of_seed = f"seed {seed}"
        for name in DEMONSTRATIONS:
            result = learn_and_play(
                f"{name}, seed {seed}",
                arguments.runs / f"{name}_{seed}",
                CONFIG,
                [f"data.path={data[name]}", f"seed={seed}", f"steps={UPDATES[name]}"],
                played,
            )
            found[name]["solved"][of_seed] = result["solved"][TASK]
            found[name]["labels"][of_seed] = frames(data[name])
        for name in arguments.variants:
            solved, steps = corrected(name, seed, arguments.runs, data["clone"], played)
            found[name]["solved"][of_seed] = solved
            found[name]["labels"][of_seed] = frames(data["clone"]) + steps
    for result in found.values():
        result["mean_labels"] = sum(result["labels"].values()) / len(result["labels"])
    publish(
        "corrections",
        ours=None,
        theirs=None,
        ratio=None,
        unit="share solved",
        table=compared(found, {name: TITLES[name] for name in names}, more=["mean_labels"]),
        variants=found,
    )


def demonstrations(name: str, runs: Path) -> Path:
    """The dataset of a variant's demonstrations, made if it is not there."""
    from vla.config import load_config
    from vla.sim_eval.collection.recording import CollectConfig, collect

    out = runs / f"data_{name}"
    overrides = [f"out={out}", f"episodes_per_task={DEMONSTRATIONS[name]}", "workers=1"]
    return collect(load_config(CollectConfig, CONFIG, overrides, section="collect"), resume=True)


def frames(data: Path) -> int:
    """Labelled steps of a dataset."""
    from vla.data import EpisodeDataset

    return len(EpisodeDataset(data).columns.actions)


def corrected(
    name: str, seed: int, runs: Path, data: Path, played: list[str]
) -> tuple[list[bool], int]:
    """One run of `vla online` from the clone of this seed.

    Returns whether each unseen start was solved, and how many steps the expert has labelled.
    """
    import numpy as np

    from vla.config import load_config
    from vla.data import EpisodeDataset
    from vla.models import load_policy
    from vla.recipes.online import OnlineConfig, online
    from vla.sim_eval.evaluation import EvalConfig, evaluate

    out = runs / f"{name}_{seed}"
    overrides = [
        f"init_from={runs / f'clone_{seed}' / 'policy'}",
        f"prior_data.path={data}",
        f"out={out}",
        f"seed={seed}",
        "act.threads=1",
        "evaluate=null",
        *ONLINE[name],
    ]
    online(load_config(OnlineConfig, CONFIG, overrides, section="online"), resume=True)
    played = [f"out={out / 'eval'}", *played]
    results = evaluate(
        load_policy(out / "policy"),
        load_config(EvalConfig, CONFIG, played, section="eval"),
        name=f"{name}, seed {seed}",
        resume=True,
        restart=True,
    )
    columns = EpisodeDataset(out / "episodes").columns
    labels = len(columns.actions)
    if name == "corrections":
        labels = int(np.count_nonzero(columns.extras["intervention"]))
    return outcomes(results)[TASK], labels


if __name__ == "__main__":
    main()
