"""From a clone that never reaches the goal to a policy that always does, by acting: who needs how many steps?

    vla collect configs/stitching.yaml
    python benchmarks/online_stitch.py [--variants ppo grpo ...] [--seeds 3] [--episodes 50]

Each seed has a clone of the recordings of configs/stitching.yaml, from which every variant goes on (configs/stitch_online.yaml).
Iterated filtered BC, which imitates what succeeded, is the control that policy gradients have to beat. All play the same
unseen starts after every round. What is done lies in runs/online_stitch and is not repeated. Writes results/online_stitch.json.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from _common import prepare_cpu, publish
from _variants import compared, learn_and_play, outcomes

ROOT = Path(__file__).parents[1]
OFFLINE = ROOT / "configs" / "stitching.yaml"
ONLINE = ROOT / "configs" / "stitch_online.yaml"
ROUNDS = 6  # of 64 episodes of at most 50 steps: 19,200 steps at most
VALUES = '"discount": 0.97, "critic": {"hidden": 64}'
VARIANTS: dict[str, tuple[str, list[str]]] = {
    "ppo": ("PPO", []),
    "grpo": (
        "GRPO, 8 of each start",
        ['objective={"type": "grpo", "discount": 0.97}', "episodes_per_start=8"],
    ),
    "grpo_success": (
        "GRPO, success alone",
        ['objective={"type": "grpo", "discount": 1.0}', "episodes_per_start=8"],
    ),
    "a2c": ("A2C", [f'objective={{"type": "a2c", {VALUES}}}', "epochs=1"]),
    "trpo": ("TRPO", [f'objective={{"type": "trpo", {VALUES}}}']),
    "reinforce": (
        "REINFORCE",
        ['objective={"type": "reinforce", "discount": 0.97}', "epochs=1"],
    ),
    "filtered_bc": (
        "Filtered BC, all rounds kept",
        ['objective={"type": "filtered_bc"}', "keep=all", "save_episodes=true"],
    ),
}
"""name -> (title, overrides of the config)."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seeds", type=int, default=3, help="clones, and runs of each variant")
    parser.add_argument("--episodes", type=int, default=50, help="played after every round")
    parser.add_argument(
        "--data", default="data/stitching", help="what `vla collect configs/stitching.yaml` made"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/online_stitch"))
    arguments = parser.parse_args()
    prepare_cpu(1)

    found: dict[str, dict[str, Any]] = {"clone": {"solved": {}}}
    for name in arguments.variants:
        found[name] = {"solved": {}, "curves": {}, "solved_all": {}, "cpu_seconds": {}}
    for seed in range(arguments.seeds):
        clone = arguments.runs / f"clone_{seed}"
        result = learn_and_play(
            f"clone, seed {seed}",
            clone,
            OFFLINE,
            [f"data.path={arguments.data}", f"seed={seed}", 'objective={"type": "bc"}'],
            [f"episodes_per_task={arguments.episodes}"],
        )
        found["clone"]["solved"][f"seed {seed}"] = result["solved"]["stitch"]
        for name in arguments.variants:
            run = acted(name, seed, arguments.runs, clone / "policy", arguments.episodes)
            for key, value in run.items():
                found[name][key][f"seed {seed}"] = value
    titles = {"clone": "The clone"} | {name: VARIANTS[name][0] for name in arguments.variants}
    publish(
        "online_stitch",
        ours=None,
        theirs=None,
        ratio=None,
        unit="share solved",
        table=compared(found, titles),
        rounds=ROUNDS,
        variants=found,
    )


def acted(name: str, seed: int, runs: Path, clone: Path, episodes: int) -> dict[str, Any]:
    """One run of `vla online`.

    Returns:
        solved: whether each unseen start was solved after the last round.
        curves: per round [env steps, share solved while acting, share of the unseen starts].
        solved_all: env steps after which all unseen starts were solved first; None if they never were.
        cpu_seconds: processor time of the whole run with its evaluations, one thread.
    """
    from vla.config import load_config
    from vla.recipes.online import OnlineConfig, online
    from vla.sim_eval.comparison.results import Results

    out = runs / f"{name}_{seed}"
    record = out / "cost.json"
    overrides = [
        f"init_from={clone}",
        f"out={out}",
        f"seed={seed}",
        f"rounds={ROUNDS}",
        "act.threads=1",
        f"evaluate={{every: 1, episodes_per_task: {episodes}}}",
        *VARIANTS[name][1],
    ]
    if not record.exists():
        began = time.process_time()
        online(load_config(OnlineConfig, ONLINE, overrides, section="online"), resume=True)
        record.write_text(json.dumps({"cpu_seconds": time.process_time() - began}) + "\n")
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    curve = []
    solved_all = None
    for line in lines:
        share = line["evaluation/success"]
        curve.append([line["env_steps"], line["played/success"], share])
        if share == 1 and solved_all is None:
            solved_all = int(line["env_steps"])
    last = Results.load(out / "evaluations" / f"round-{ROUNDS:04d}")
    return {
        "solved": outcomes(last)["stitch"],
        "curves": curve,
        "solved_all": solved_all,
        "cpu_seconds": round(json.loads(record.read_text())["cpu_seconds"], 1),
    }


if __name__ == "__main__":
    main()
