"""Does fitted Q evaluation find the order of checkpoints that rollouts would find?

At least eight checkpoints are valued on recorded episodes alone (`vla fqe`), and each is evaluated in simulation. Told are Spearman's
rank correlation of the two, beside that of the held-out action error, which needs no values, and a picture.

Rollouts that are there already (`--evaluations`, or an earlier call) are not repeated. A killed benchmark goes on where it was.

    python benchmarks/fqe_ranking.py CONFIG.yaml 'RUN/checkpoints/step-*' --data data/mixed

CONFIG.yaml is what `vla eval` takes; how often the policy looks again is read from it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from _common import RESULTS, prepare_cpu, publish

LEAST = 8
ROOT = Path(__file__).parents[1]


def labels_of(folders: list[str]) -> list[str]:
    """The parts of two or more paths that differ: runs/a/policy and runs/b/policy are a and b."""
    parts = [Path(folder).resolve().parts for folder in folders]
    while len({p[-1] for p in parts}) == 1:
        parts = [p[:-1] for p in parts]
    shared = next(i for i, names in enumerate(zip(*parts, strict=False)) if len(set(names)) > 1)
    return ["/".join(p[shared:]) for p in parts]


def evaluated(folder: str, label: str, arguments: argparse.Namespace) -> Path:
    """The folder of a checkpoint's evaluation, made here where it is missing."""
    from vla.config import load_config
    from vla.recipes.evaluate import evaluate_from_config
    from vla.sim_eval.evaluation import EvalConfig

    out = Path(arguments.out) / label.replace("/", "_")
    if not (out / "results.json").is_file():
        texts = [f"policy={folder}", f"out={out}", "videos_per_task=0", "failure_videos=0"]
        if arguments.episodes_per_task is not None:
            texts.append(f"episodes_per_task={arguments.episodes_per_task}")
        print(f"fqe_ranking: rollouts of {folder}", file=sys.stderr)
        evaluate_from_config(load_config(EvalConfig, arguments.config, texts, section="eval"))
    return out


def arguments_of(text: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path, help="config of the evaluation")
    parser.add_argument("policies", nargs="+", help="folders of checkpoints, or patterns")
    parser.add_argument("--data", required=True, help="dataset of several qualities")
    parser.add_argument("--rewards", default="success", choices=["env", "success", "step_cost"])
    parser.add_argument("--episodes", type=int, default=300, help="recorded episodes that are used")
    parser.add_argument("--discount", type=float, default=0.99)
    parser.add_argument(
        "--steps",
        type=int,
        default=None,
        help="of fitted Q evaluation [default: that of its config]",
    )
    parser.add_argument(
        "--evaluations",
        nargs="*",
        default=[],
        help="evaluations of the policies, in the same order",
    )
    parser.add_argument(
        "--episodes-per-task",
        type=int,
        default=None,
        help="of new evaluations [default: the config's]",
    )
    parser.add_argument(
        "--out", default="runs/fqe_ranking", help="folder for evaluations and estimates"
    )
    parser.add_argument("--picture", type=Path, default=ROOT / "docs" / "fqe.svg")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    arguments = arguments_of(__doc__)
    prepare_cpu(arguments.threads)
    from vla.config import load_config
    from vla.sim_eval.evaluation import EvalConfig
    from vla.training.offline_evaluation.fitted_q_evaluation import FQEConfig, fqe, policy_folders
    from vla.training.offline_evaluation.scatter_plot import dots_svg

    folders = policy_folders(arguments.policies)
    if len(folders) < LEAST or (
        arguments.evaluations and len(arguments.evaluations) != len(folders)
    ):
        print(
            f"fqe_ranking: {len(folders)} policies and {len(arguments.evaluations)} evaluations; an order needs at least "
            f"{LEAST} policies, and no evaluations or one for each",
            file=sys.stderr,
        )
        raise SystemExit(2)
    labels = labels_of(folders)
    settings = load_config(EvalConfig, arguments.config, section="eval")
    made = arguments.evaluations or [
        str(evaluated(folder, label, arguments))
        for folder, label in zip(folders, labels, strict=True)
    ]
    values: dict[str, Any] = {
        "policies": folders,
        "data": {
            "path": arguments.data,
            "rewards": {"kind": arguments.rewards},
            "episodes": arguments.episodes,
        },
        "discount": arguments.discount,
        "replan_every": settings.replan_every,
        "success": dict(zip(folders, made, strict=True)),
        "out": arguments.out,
        **({} if arguments.steps is None else {"steps": arguments.steps}),
    }
    result = fqe(
        load_config(FQEConfig, values),
        tell=lambda line: print(f"fqe_ranking: {line}", file=sys.stderr),
    )
    dots = [
        (e.value, e.success or 0.0, label)
        for e, label in zip(result.estimates, labels, strict=True)
    ]
    found = result.rank_correlation
    title = f"{len(folders)} checkpoints, {result.episodes} recorded episodes" + (
        "" if found is None else f": rank correlation {found:.2f}"
    )
    picture = dots_svg(
        {"": dots}, title, x="value estimated without a simulator", y="success in simulation"
    )
    arguments.picture.write_text(picture)
    publish(
        "fqe_ranking",
        ours=found,
        theirs=result.action_error_correlation,
        ratio=None,
        unit="Spearman's rank correlation with success in simulation; theirs: by held-out action error",
        table=result.table(),
        path=RESULTS / "fqe_ranking.json",
        policies=[
            {
                "policy": label,
                "value": e.value,
                "interval": e.interval,
                "action_error": e.action_error,
                "success": e.success,
            }
            for e, label in zip(result.estimates, labels, strict=True)
        ],
        episodes=result.episodes,
        frames=result.frames,
        seconds={name: round(value, 1) for name, value in result.seconds.items()},
    )


if __name__ == "__main__":
    main()
