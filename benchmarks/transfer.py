"""From the tabletop to another robot by ten demonstrations of a new task: what pretraining is worth.

A policy of the tabletop (configs/tabletop.yaml) becomes one for Meta-World (configs/transfer_metaworld.yaml) by the same
number of updates that the same network gets from scratch; in full and by adapters. Then with thirty failures beside ten
demonstrations: cloned, and by IQL. All play the same unseen starts, after each of `--seeds` trainings.

    vla collect configs/tabletop.yaml
    vla train configs/tabletop.yaml
    python benchmarks/transfer.py [--variants scratch transfer ...] [--seeds 1] [--episodes 100] [--threads N]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from _common import cpu_count, prepare_cpu, publish
from _variants import compared, learn_and_play

from vla.config import load_config, read_yaml

CONFIGS = Path(__file__).parents[1] / "configs"
CONFIG = CONFIGS / "transfer_metaworld.yaml"
FAILURES = [
    "episodes_per_task=30",
    "only_successes=false",
    "actions=executed",
    'noise={"std": 0.0, "random_shares": [0.75, 0.9, 1.0]}',
]
NO_REPLAY = ["data.replay=[]"]
SCRATCH = [*NO_REPLAY, "init_from=null", "transfer=null", "optim.lr=1e-3", "optim.rates={}"]
ON_MIXED = ["data.path={mixed}", "data.validation_fraction=0", 'data.rewards={"kind": "success"}']
IQL = {
    "type": "iql",
    "advantage": "outcome",
    "beta": 3.0,
    "max_weight": 2.0,
    "standardise": True,
    "mean_weight": True,
    "discount": 0.98,
    "critic": {"joint": True, "executed": 2},  # as `eval.replan_every`
    "target_rate": 0.02,
    "monte_carlo_floor": True,
}
VARIANTS: dict[str, tuple[str, list[str]]] = {
    "scratch": ("from scratch", SCRATCH),
    "transfer": ("fine-tuned, a quarter of the batches still the tabletop", []),
    "no_replay": ("fine-tuned on the demonstrations alone", NO_REPLAY),
    "lora": (
        "adapters of rank 16, four times the rate",
        ['transfer.lora={"rank": 16, "alpha": 16}', "optim.lr=2e-3"],
    ),
    "bc_mixed": ("demonstrations and failures, cloned", [*ON_MIXED, *NO_REPLAY]),
    "iql_mixed": (
        "demonstrations and failures, IQL",
        [*ON_MIXED, *NO_REPLAY, f"objective={json.dumps(IQL)}", "data.solved_share=0.85"],
    ),
}
"""name -> (title, overrides of the config's train section)."""


def collect(task: str) -> dict[str, str]:
    """The task's demonstrations, and both demonstrations and failures, collected where they are not there yet.

    Returns folders by name: demonstrations, mixed."""
    from vla.data import DatasetWriter, EpisodeDataset
    from vla.sim_eval.collection.recording import CollectConfig
    from vla.sim_eval.collection.recording import collect as run

    folders = {
        name: f"data/transfer_{task}_{name}" for name in ("demonstrations", "failures", "mixed")
    }
    for name, overrides in (("demonstrations", []), ("failures", FAILURES)):
        given = [f"env.tasks=[{task}]", f"out={folders[name]}", *overrides]
        if not (Path(folders[name]) / "meta" / "info.json").exists():
            run(load_config(CollectConfig, CONFIG, given, section="collect"))
    if not Path(folders["mixed"]).exists():
        parts = [EpisodeDataset(folders[name]) for name in ("demonstrations", "failures")]
        with DatasetWriter(folders["mixed"], parts[0].spec) as writer:
            for part in parts:
                writer.add_episodes([part.episode(index) for index in range(len(part))])
    return folders


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--work", type=Path, default=Path("runs/transfer"))
    parser.add_argument(
        "--task", default="button-press-topdown", help="of Meta-World, that nobody has learned yet"
    )
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each variant")
    parser.add_argument(
        "--episodes", type=int, default=100, help="unseen starts after each training"
    )
    parser.add_argument("--threads", type=int, default=cpu_count())
    parser.add_argument(
        "--no-table", action="store_true", help="train and evaluate only: another call shows all"
    )
    arguments = parser.parse_args()
    prepare_cpu(arguments.threads)
    folders = collect(arguments.task)

    policy = json.dumps(read_yaml(CONFIGS / "tabletop.yaml")["train"]["policy"])
    found: dict[str, dict[str, Any]] = {}
    for name in arguments.variants:
        _, training = VARIANTS[name]
        solved: dict[str, list[bool]] = {}
        for seed in range(arguments.seeds):
            given = [
                f"steps={arguments.steps}",
                f"seed={seed}",
                "save_every=null",
                "validate_every=null",
            ]
            given += [f"data.path={folders['demonstrations']}"]
            given += [text.replace("{mixed}", folders["mixed"]) for text in training]
            given += [f"policy={policy}"] if name == "scratch" else []
            out = arguments.work / arguments.task / f"{name}_{seed}"
            played = [f"episodes_per_task={arguments.episodes}", f"env.tasks=[{arguments.task}]"]
            result = learn_and_play(f"{name}, seed {seed}", out, CONFIG, given, played)
            solved |= {
                f"{task}, seed {seed}": outcomes for task, outcomes in result["solved"].items()
            }
        found[name] = {"solved": solved}
    if arguments.no_table:
        return
    publish(
        "transfer",
        ours=None,
        theirs=None,
        ratio=None,
        unit="episodes solved, of the same starts",
        table=compared(found, {name: VARIANTS[name][0] for name in found}),
        task=arguments.task,
        steps=arguments.steps,
        variants={name: {"what": VARIANTS[name][0], **r} for name, r in found.items()},
    )


if __name__ == "__main__":
    main()
