"""What a policy of a simulated tabletop is worth on a real robot's data: held-out action error on Bridge, at equal updates.

The same network learns 17 of Bridge's 25 training episodes from scratch, from the tabletop's checkpoint (configs/bridge.yaml), and
from the checkpoint by adapters; other episodes are held out for each seed. Errors are given as a share of the error that a
constant makes: each dimension's median over the training episodes, on the same held-out windows.

    vla data convert FOLDER/bridge_dataset/1.0.0 data/bridge split=train cameras.front=image_0 control_hz=5
    vla collect configs/tabletop.yaml
    vla train configs/tabletop.yaml
    python benchmarks/bridge.py [--variants scratch fine_tuned] [--seeds 3] [--steps 200] [--threads N]
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
from _common import cpu_count, prepare_cpu, publish

from vla.config import load_config
from vla.data import EpisodeDataset
from vla.training import TrainConfig, train
from vla.training.run_data.windows import split_episodes

CONFIG = Path(__file__).parents[1] / "configs" / "bridge.yaml"
SCRATCH = ["init_from=null", "transfer=null", "optim.rates={}"]
VARIANTS: dict[str, tuple[str, list[str]]] = {
    "scratch": ("from scratch", SCRATCH),
    "fine_tuned": ("from the tabletop's checkpoint", []),
    "lora": (
        "from the tabletop's checkpoint, adapters of rank 16",
        ['transfer.lora={"rank": 16, "alpha": 16}', "optim.rates={}"],
    ),
}
"""name -> (title, overrides of the config's train section)."""


def constant_errors(config: TrainConfig, chunk: int) -> np.ndarray:
    """Mean absolute error (A,) on the held-out windows of the training episodes' medians."""
    data = EpisodeDataset(config.data.path)
    tasks = data.episodes["task_index"].tolist()
    training, held_out = split_episodes(tasks, config.data.validation_fraction, config.seed)
    median = np.median(
        np.concatenate([data.episode(i, images=False).actions for i in training]), axis=0
    )
    errors = [np.abs(data.episode(i, images=False).actions - median) for i in held_out]
    # a step is in as many windows as begin up to `chunk` steps before it
    weights = [np.minimum(np.arange(len(e)) + 1, chunk) for e in errors]
    return np.average(np.concatenate(errors), axis=0, weights=np.concatenate(weights))


def learn(out: Path, overrides: list[str]) -> list[dict[str, Any]]:
    """Validations of one training, by step: `loss` (nats per token), `error` (of the constant's), `errors` by action."""
    config = load_config(TrainConfig, CONFIG, [f"out={out}", *overrides], section="train")
    if not (out / "policy").is_dir():
        train(config, resume=True)
    assert config.policy is not None
    constant = constant_errors(config, config.policy.chunk)
    names = EpisodeDataset(config.data.path).spec.action_names
    found = []
    for line in map(json.loads, (out / "metrics.jsonl").read_text().splitlines()):
        if "validation/loss" in line:
            errors = np.array([line[f"validation/action_error/{name}"] for name in names])
            found.append(
                {
                    "step": line["step"],
                    "loss": line["validation/loss"],
                    "error": float((errors / constant).mean()),
                    "errors": dict(zip(names, errors.tolist(), strict=True)),
                }
            )
    return found


def main() -> None:
    from rich.table import Table

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--work", type=Path, default=Path("runs/bridge_transfer"))
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument(
        "--seeds",
        type=int,
        default=3,
        help="trainings of each variant, with other episodes held out",
    )
    parser.add_argument("--threads", type=int, default=cpu_count())
    arguments = parser.parse_args()
    prepare_cpu(arguments.threads)

    found: dict[str, dict[str, Any]] = {}
    for name in arguments.variants:
        title, overrides = VARIANTS[name]
        runs = []
        for seed in range(arguments.seeds):
            given = [f"steps={arguments.steps}", f"seed={seed}", "save_every=null", *overrides]
            runs.append(learn(arguments.work / f"{name}_{arguments.steps}_{seed}", given))
            curve = ", ".join(f"{one['error']:.3f} at {one['step']}" for one in runs[-1])
            print(f"{name}, seed {seed}: {curve}", flush=True)
        found[name] = {"what": title, "validations": runs}
        for key in ("error", "loss"):
            last = [run[-1][key] for run in runs]
            found[name] |= {key: statistics.fmean(last), f"{key}_by_seed": last}
            found[name][f"least_{key}_by_seed"] = [min(one[key] for one in run) for run in runs]

    table = Table(
        "variant",
        "held-out action error, of a constant's",
        "by seed",
        "least of any validation",
        "loss",
    )
    for one in found.values():
        seeds = (
            " ".join(f"{x:.3f}" for x in one[key])
            for key in ("error_by_seed", "least_error_by_seed")
        )
        table.add_row(one["what"], f"{one['error']:.3f}", *seeds, f"{one['loss']:.3f}")
    publish(
        "bridge",
        ours=None,
        theirs=None,
        ratio=None,
        unit="mean absolute error on held-out episodes, mean over the 7 actions of its share of a constant's",
        table=table,
        steps=arguments.steps,
        variants=found,
    )


if __name__ == "__main__":
    main()
