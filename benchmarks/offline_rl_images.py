"""Every offline RL objective on images and language: one RT-1, cloned from data of which two thirds fail, fine-tuned by each.

All start from the same behavioural clone (of `configs/tabletop_offline.yaml`), see the same data for the same number of
steps, and play the same unseen starts. `bc` goes on cloning: the control. The Decision Transformer cannot start from an
RT-1 and learns from scratch, for as many steps as clone and fine-tuning have together.

    vla collect configs/tabletop_offline.yaml
    vla train configs/tabletop_offline.yaml
    python benchmarks/offline_rl_images.py [--variants bc iql ...] [--steps 1000] [--episodes 40] [--threads N]

and the same with --config configs/metaworld_offline.yaml.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from _common import cpu_count, prepare_cpu, publish
from _variants import compared, learn_and_play

from vla.config import read_yaml

CONFIGS = Path(__file__).parents[1] / "configs"
CRITIC = {"joint": True}
EXECUTED = CRITIC | {"executed": 2}  # `eval.replan_every` of both configs
SPARSE = {"discount": 0.98, "critic": EXECUTED, "target_rate": 0.02, "monte_carlo_floor": True}
WEIGHTS = {"beta": 3.0, "max_weight": 2.0, "standardise": True, "mean_weight": True}
WEIGHING = {"type": "weighted_bc", **WEIGHTS}
PRESSED = {
    "alpha": 1.0,
    "importance": False,
    "sampled": 4,
    "extraction": WEIGHING,
}  # tokens have no density over numbers
BEST = {"type": "best_of_n", "selection": {"type": "best_of_n", "samples": 8, "temperature": 0.5}}

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "bc": ("BC, continued", {"type": "bc"}),
    "filtered_bc": ("BC on solved episodes", {"type": "filtered_bc"}),
    "awr": (
        "AWR, Monte Carlo",
        {"type": "awr", "max_weight": 2.0, "discount": 0.98, "critic": CRITIC},
    ),
    "awac": (
        "AWAC",
        {"type": "awac", "beta": 3.0, "max_weight": 2.0, "standardise": True, **SPARSE},
    ),
    "iql": ("IQL", {"type": "iql", **WEIGHTS, **SPARSE}),
    "iql_outcome": (
        "IQL, advantages of outcomes",
        {"type": "iql", "advantage": "outcome", **WEIGHTS, **SPARSE},
    ),
    "iql_outcome_best_of_n": (
        "IQL, advantages of outcomes, best of 9",
        {
            "type": "iql",
            "advantage": "outcome",
            **SPARSE,
            "extraction": BEST | {"weights": WEIGHTS},
        },
    ),
    "iql_best_of_n": (
        "IQL's values, the clone's best of 9",
        {"type": "iql", **SPARSE, "extraction": BEST},
    ),
    "cql": ("CQL, weighted BC", {"type": "cql", **PRESSED, **SPARSE}),
    "cal_ql": ("Cal-QL, weighted BC", {"type": "cal_ql", **PRESSED, **SPARSE}),
    "td3_bc": ("TD3+BC", {"type": "td3_bc", **SPARSE}),
    "kl": ("KL to the data", {"type": "kl", **SPARSE}),
    "return_conditioned": (
        "Decision Transformer, asked for success, from scratch",
        {"type": "return_conditioned"},
    ),
    "q_transformer": (
        "Q-Transformer",
        {
            "type": "q_transformer",
            "discount": 0.98,
            "target_rate": 0.02,
            "conservative_weight": 0.5,
            "smoothing": 1.5,
        },
    ),
    "ilql": ("ILQL", {"type": "ilql", "discount": 0.98, "target_rate": 0.02}),
}
TOKENS = ["policy.chunk=2", 'policy.tokenizer={"type": "bins", "num_bins": 64}', "transfer={}"]
OTHER_POLICY = {  # overrides of those that do not train the clone's own head
    "q_transformer": ["policy.type=q_transformer", 'policy.head={"type": "q_values"}', *TOKENS],
    "ilql": ['policy.head={"type": "ilql"}', *TOKENS],
}

IMITATORS = (
    "bc",
    "filtered_bc",
    "return_conditioned",
)  # the others see failures too, in a share of their own


def decision_transformer(arguments: argparse.Namespace) -> list[str]:
    """Overrides that put a Decision Transformer in the clone's place, trained as long as clone and fine-tuning."""
    policy = read_yaml(CONFIGS / "tabletop_mixed.yaml")["train"]["policy"]
    steps = read_yaml(arguments.config)["train"]["steps"] + arguments.steps
    return [f"policy={json.dumps(policy)}", "init_from=null", f"steps={steps}", "optim.lr=1e-3"]


def run(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Fine-tunes and evaluates one objective. -> successes per task in order of the starts, and costs."""
    training = [
        "data.cache=disk",
        f"init_from={arguments.clone}",
        f"objective={json.dumps(VARIANTS[name][1])}",
        f"optim.lr={arguments.lr}",
        f"steps={arguments.steps}",
        f"seed={arguments.seed}",
        "validate_every=null",
        "save_every=null",
        *([] if name in IMITATORS else [f"data.solved_share={arguments.solved_share}"]),
        *(
            decision_transformer(arguments)
            if name == "return_conditioned"
            else OTHER_POLICY.get(name, [])
        ),
    ]
    played = [f"episodes_per_task={arguments.episodes}"]
    if name == "return_conditioned":
        played += ["replan_every=1", "target_return=1"]
    out = arguments.work / arguments.config.stem / name
    return learn_and_play(name, out, arguments.config, training, played)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument(
        "--config",
        type=Path,
        default=CONFIGS / "tabletop_offline.yaml",
        help="data, clone and evaluation",
    )
    parser.add_argument(
        "--clone", default=None, help="what all start from; the config's own policy by default"
    )
    parser.add_argument("--work", type=Path, default=Path("runs/offline_rl"))
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument(
        "--solved-share", type=float, default=0.85, help="of the windows of those that learn values"
    )
    parser.add_argument(
        "--episodes", type=int, default=40, help="unseen starts of each family, the same for all"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=cpu_count())
    parser.add_argument(
        "--no-table", action="store_true", help="train and evaluate only: another call shows all"
    )
    arguments = parser.parse_args()
    arguments.clone = arguments.clone or f"{read_yaml(arguments.config)['train']['out']}/policy"
    prepare_cpu(arguments.threads)
    found = {name: run(name, arguments) for name in arguments.variants}
    if arguments.no_table:
        return
    table = compared(found, {name: VARIANTS[name][0] for name in found}, more=["cpu_minutes"])
    publish(
        f"offline_rl_{arguments.config.stem.split('_')[0]}",
        ours=None,
        theirs=None,
        ratio=None,
        unit="episodes solved, of the same starts",
        table=table,
        steps=arguments.steps,
        seed=arguments.seed,
        variants={
            name: {"what": VARIANTS[name][0], "objective": VARIANTS[name][1], **r}
            for name, r in found.items()
        },
    )


if __name__ == "__main__":
    main()
