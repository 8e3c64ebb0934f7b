"""Every offline RL objective on images and language: one RT-1, cloned from data of which two thirds fail, fine-tuned by each.

All start from the same behavioural clone (`configs/tabletop_offline.yaml`), see the same data for the same number of
steps, and play the same unseen starts. `bc` goes on cloning: the control. The Decision Transformer cannot start from an
RT-1 and learns from scratch, for as many steps as clone and fine-tuning have together.

    vla collect configs/tabletop_offline.yaml
    python benchmarks/offline_rl_tabletop.py [--variants bc iql ...] [--steps 600] [--episodes 40] [--threads N]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from _common import cpu_count, prepare_cpu, publish
from _variants import compared, learn_and_play

CONFIGS = Path(__file__).parents[1] / "configs"
CRITIC = {"joint": True}
SPARSE = {"discount": 0.98, "critic": CRITIC, "target_rate": 0.01}
WEIGHING = {"type": "weighted_bc", "beta": 3.0, "max_weight": 20.0, "standardise": True, "mean_weight": True}
BEST = {"type": "best_of_n", "rule": {"type": "best_of_n", "samples": 16}}

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "bc": ("BC, continued", {"type": "bc"}),
    "filtered_bc": ("BC on solved episodes", {"type": "filtered_bc"}),
    "awr": ("AWR, Monte Carlo", {"type": "awr", "discount": 0.98, "critic": CRITIC}),
    "awr_td": ("AWR, SARSA", {"type": "awr", "advantage": "td", "discount": 0.98, "critic": CRITIC}),
    "awac": ("AWAC", {"type": "awac", "beta": 3.0, "standardise": True, **SPARSE}),
    "iql": ("IQL", {"type": "iql", "max_weight": 20.0, "standardise": True, "mean_weight": True, **SPARSE}),
    "iql_best_of_n": ("IQL, best of 17 by Q", {"type": "iql", **SPARSE, "extraction": BEST}),
    "cql": (
        "CQL, weighted BC",
        {"type": "cql", "alpha": 1.0, "importance": False, "sampled": 4, **SPARSE, "extraction": WEIGHING},
    ),
    "cal_ql": (
        "Cal-QL, weighted BC",
        {"type": "cal_ql", "alpha": 1.0, "importance": False, "sampled": 4, **SPARSE, "extraction": WEIGHING},
    ),
    "td3_bc": ("TD3+BC", {"type": "td3_bc", **SPARSE}),
    "kl": ("KL to the data", {"type": "kl", **SPARSE}),
}


def run(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Fine-tunes and evaluates one objective. -> successes per task in order of the starts, and costs."""
    training = [
        f"data.path={arguments.data}",
        f"init_from={arguments.clone}",
        f"objective={json.dumps(VARIANTS[name][1])}",
        f"optim.lr={arguments.lr}",
        f"steps={arguments.steps}",
        f"seed={arguments.seed}",
        "validate_every=null",
        "save_every=null",
    ]
    config = CONFIGS / "tabletop_offline.yaml"
    return learn_and_play(name, arguments.work / name, config, training, [f"episodes_per_task={arguments.episodes}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--data", default="data/tabletop_offline")
    parser.add_argument("--clone", default="runs/tabletop_offline/bc/policy", help="what all start from")
    parser.add_argument("--work", type=Path, default=Path("runs/offline_rl_tabletop"))
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--episodes", type=int, default=40, help="unseen starts of each family, the same for all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=cpu_count())
    parser.add_argument("--no-table", action="store_true", help="train and evaluate only: another call shows all")
    arguments = parser.parse_args()
    prepare_cpu(arguments.threads)
    found = {name: run(name, arguments) for name in arguments.variants}
    if arguments.no_table:
        return
    table = compared(found, {name: VARIANTS[name][0] for name in found}, more=["cpu_minutes"])
    publish(
        "offline_rl_tabletop",
        ours=None,
        theirs=None,
        ratio=None,
        unit="episodes solved, of the same starts",
        table=table,
        steps=arguments.steps,
        seed=arguments.seed,
        variants={name: {"what": VARIANTS[name][0], "objective": VARIANTS[name][1], **r} for name, r in found.items()},
    )


if __name__ == "__main__":
    main()
