"""RT-1 on tabletop with each way to say actions: the same data, trunk, steps and seeds; tokenizer and head differ.

Every row is trained by `vla.train` from `configs/tabletop.yaml` and plays the same unseen starts. Beside the success
stand the picture's share of the loss (what another episode's picture costs at the first frames of held-out episodes)
and what one control step costs (`act`, one robot, one thread). A row that is finished is kept under --work and is not
computed again; one that was cut off resumes.

    vla collect configs/tabletop.yaml episodes_per_task=700
    python benchmarks/action_tokens.py [--rows bins rvq ...] [--seeds 0 1 2] [--steps 1600] [--episodes 20]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from _common import RESULTS, cpu_count, prepare_cpu, publish
from _variants import compared, learn_and_play

CONFIG = Path(__file__).parents[1] / "configs" / "tabletop.yaml"
AUTOREGRESSIVE = {"type": "autoregressive"}
SMOOTH = {"type": "categorical", "bin_smoothing": 8}
BY_DISTANCE = {"code_smoothing": 1.0, "place_weights": "variance"}
OLD_RVQ = {"type": "rvq", "codebooks": 4, "codes": 256}


@dataclass(frozen=True)
class Row:
    """One way to say actions.

    Attributes:
        what: for the table.
        tokenizer, head: of the policy.
        chunk: actions per chunk; the tabletop is controlled at 20 Hz.
        temperature: of the actions that are executed.
    """

    what: str
    tokenizer: dict[str, Any] = field(default_factory=lambda: {"type": "bins"})
    head: dict[str, Any] = field(default_factory=lambda: SMOOTH)
    chunk: int = 4
    temperature: float = 0.0


ROWS = {
    "bins": Row("uniform bins, smoothed, parallel"),
    "bins_unsmoothed": Row("uniform bins, not smoothed, parallel", head={"type": "categorical"}),
    "bins_autoregressive": Row(
        "uniform bins, smoothed, autoregressive", head=AUTOREGRESSIVE | {"code_smoothing": 8.0}
    ),
    "rvq": Row(
        "residual VQ 2 x 32, smoothed, weighted, with offset",
        {"type": "rvq"},
        AUTOREGRESSIVE | BY_DISTANCE | {"offset": True},
    ),
    "rvq_old": Row("residual VQ 4 x 256, exact codes", OLD_RVQ, AUTOREGRESSIVE),
    "fast": Row(
        "FAST, chunks of 0.5 s, smoothed, weighted",
        {"type": "fast"},
        AUTOREGRESSIVE | BY_DISTANCE,
        chunk=10,
    ),
    "flow": Row("flow matching, sampled", head={"type": "flow"}, temperature=1.0),
    "flow_mode": Row("flow matching, from zero noise", head={"type": "flow"}),
    "quantile": Row("quantile bins, parallel", {"type": "bins", "scheme": "quantile"}),
    "l1": Row("L1 regression", head={"type": "regression"}),
    "rvq8": Row(
        "residual VQ 4 x 256, exact codes, 8 states read",
        OLD_RVQ,
        AUTOREGRESSIVE | {"read_states": 8},
    ),
}
DEFAULT_ROWS = list(ROWS)[:7]


def run(name: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Trains, evaluates and looks at one row with one seed, or reads what was found before.

    Returns successes per task in order of the starts, the picture's share, and costs.
    """
    row = ROWS[name]
    out = arguments.work / name / f"seed-{seed}"
    training = [
        f"data.path={arguments.data}",
        f"policy.tokenizer={json.dumps(row.tokenizer)}",
        f"policy.head={json.dumps(row.head)}",
        f"policy.chunk={row.chunk}",
        f"steps={arguments.steps}",
        f"seed={seed}",
        "validate_every=null",
        *arguments.training,
    ]
    evaluation = [f"episodes_per_task={arguments.episodes}", f"temperature={row.temperature}"]
    settings = {"training": training, "evaluation": evaluation}
    finished = out / "row.json"
    if finished.is_file():
        known = json.loads(finished.read_text())
        if known["settings"] == settings:
            return dict(known["result"])
    result = learn_and_play(name, out, CONFIG, training, evaluation)
    result["picture"] = picture(out)
    result["control_ms"] = control_ms(out)
    finished.write_text(json.dumps({"settings": settings, "result": result}) + "\n")
    return result


def picture(out: Path) -> dict[str, Any]:
    """The picture's share of the loss of a run, on the episodes that it held out."""
    from vla.data import EpisodeDataset, Windows
    from vla.models import load_policy
    from vla.training.offline_evaluation.picture_share import picture_share
    from vla.training.run_data.windows import split_episodes
    from vla.training.run_directory import read_run

    config = read_run(out)
    policy = load_policy(out / "policy")
    dataset = EpisodeDataset(config.data.path)
    tasks = dataset.episodes["task_index"].tolist()
    _, held_out = split_episodes(tasks, config.data.validation_fraction, config.seed)
    windows = Windows(dataset, history=policy.history, chunk=policy.chunk, episodes=held_out)
    found = picture_share(policy, windows)
    return {**asdict(found), "share": found.share, "error_share": found.error_share}


def control_ms(out: Path, calls: int = 60) -> float:
    """Median milliseconds of `act` for one robot with an instruction of its training, on one thread."""
    import dataclasses

    import torch

    from vla.models import load_policy

    threads = torch.get_num_threads()
    prepare_cpu(1)
    policy = load_policy(out / "policy")
    text = next(iter(policy.language.cached()))
    observation = dataclasses.replace(policy.spec.fake_observation(1), instruction=[text])
    times = []
    for _ in range(calls):
        began = time.perf_counter()
        policy.act(observation)
        times.append(time.perf_counter() - began)
    prepare_cpu(threads)
    return 1000 * statistics.median(times[5:])


def joined(by_seed: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """The seeds of a row side by side: starts of all, means of what is measured once for each."""
    results = list(by_seed.values())
    solved: dict[str, list[bool]] = {}
    for result in results:
        for task, starts in result["solved"].items():
            solved.setdefault(task, []).extend(starts)
    per_seed = {}
    for seed, result in by_seed.items():
        starts = [x for task in result["solved"].values() for x in task]
        per_seed[str(seed)] = {
            "successes": sum(starts),
            "episodes": len(starts),
            "picture": result["picture"],
            "cpu_minutes": result.get("cpu_minutes"),
        }
    return {
        "solved": solved,
        "picture_share": statistics.mean(result["picture"]["share"] for result in results),
        "picture_error_share": statistics.mean(
            result["picture"]["error_share"] for result in results
        ),
        "control_ms": statistics.median(result["control_ms"] for result in results),
        "per_seed": per_seed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    # --variants is what the option was called before
    parser.add_argument("--rows", "--variants", nargs="+", choices=ROWS, default=DEFAULT_ROWS)
    parser.add_argument("--data", default="data/tabletop")
    parser.add_argument("--work", type=Path, default=Path("runs/action_tokens"))
    parser.add_argument("--out", type=Path, default=RESULTS / "action_tokens.json")
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument(
        "--episodes", type=int, default=20, help="unseen starts of each family, the same for all"
    )
    parser.add_argument("--seeds", "--seed", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=cpu_count())
    parser.add_argument(
        "--training", nargs="+", default=[], help="further keys of the training, such as bf16=true"
    )
    parser.add_argument(
        "--no-table", action="store_true", help="train and evaluate only: another call shows all"
    )
    arguments = parser.parse_args()
    prepare_cpu(arguments.threads)
    found: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in arguments.rows}
    # seed by seed: what is there after an interruption compares all rows
    for seed in arguments.seeds:
        for name in arguments.rows:
            found[name][seed] = run(name, seed, arguments)
    if arguments.no_table:
        return
    variants = {name: joined(by_seed) for name, by_seed in found.items()}
    titles = {name: ROWS[name].what for name in variants}
    table = compared(variants, titles, more=["picture_share", "control_ms"])
    publish(
        "action_tokens",
        ours=None,
        theirs=None,
        ratio=None,
        unit="episodes solved, of the same starts; the picture's share of the loss (in the head's unit); "
        "milliseconds of one control step on one thread",
        table=table,
        path=arguments.out,
        steps=arguments.steps,
        seeds=arguments.seeds,
        variants={name: {"what": titles[name], **result} for name, result in variants.items()},
    )


if __name__ == "__main__":
    main()
