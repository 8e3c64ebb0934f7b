"""RT-1 on tabletop with each way to say actions: the same data, trunk, steps and seeds; tokenizer and head differ.

Every variant is trained by `vla.train` from `configs/tabletop.yaml` and plays the same unseen starts. Beside the success
stands what one control step costs (`act`, one robot, one thread). Runs are kept under --work and are reused if their
config is the same; a run that was cut off resumes.

    vla collect configs/tabletop.yaml episodes_per_task=700
    python benchmarks/action_tokens.py [--variants bins flow ...] [--steps 1600] [--episodes 20] [--threads N]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

from _common import cpu_count, prepare_cpu, publish
from _variants import compared, learn_and_play

CONFIG = Path(__file__).parents[1] / "configs" / "tabletop.yaml"
AUTOREGRESSIVE = {"type": "autoregressive"}
SMOOTH = {"type": "categorical", "bin_smoothing": 8}
VARIANTS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "bins": ("uniform bins, parallel", {"type": "bins"}, SMOOTH),
    "quantile": ("quantile bins, parallel", {"type": "bins", "scheme": "quantile"}, SMOOTH),
    "rvq": ("residual VQ, autoregressive", {"type": "rvq"}, AUTOREGRESSIVE),
    "fast": ("FAST, autoregressive", {"type": "fast"}, AUTOREGRESSIVE),
    "rvq8": (
        "residual VQ, autoregressive, 8 states read",
        {"type": "rvq"},
        AUTOREGRESSIVE | {"read_states": 8},
    ),
    "fast8": (
        "FAST, autoregressive, 8 states read",
        {"type": "fast"},
        AUTOREGRESSIVE | {"read_states": 8},
    ),
    "flow": ("flow matching", {"type": "bins"}, {"type": "flow"}),
    "l1": ("L1 regression", {"type": "bins"}, {"type": "regression"}),
}


def run(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Trains and evaluates one variant. -> successes per task in order of the starts, and costs."""
    _, tokenizer, head = VARIANTS[name]
    training = [
        f"data.path={arguments.data}",
        f"policy.tokenizer={json.dumps(tokenizer)}",
        f"policy.head={json.dumps(head)}",
        f"steps={arguments.steps}",
        f"seed={arguments.seed}",
        "validate_every=null",
    ]
    return learn_and_play(
        name, arguments.work / name, CONFIG, training, [f"episodes_per_task={arguments.episodes}"]
    )


def control_ms(policy: Any, calls: int = 30) -> float:
    """Median milliseconds of `act` for one robot with an instruction of its training."""
    import dataclasses

    text = next(iter(policy.language.cached()))
    observation = dataclasses.replace(policy.spec.fake_observation(1), instruction=[text])
    times = []
    for _ in range(calls):
        began = time.perf_counter()
        policy.act(observation)
        times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times[5:])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--data", default="data/tabletop")
    parser.add_argument("--work", type=Path, default=Path("runs/action_tokens"))
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument(
        "--episodes", type=int, default=20, help="unseen starts of each family, the same for all"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=cpu_count())
    parser.add_argument(
        "--no-table", action="store_true", help="train and evaluate only: another call shows all"
    )
    arguments = parser.parse_args()
    prepare_cpu(arguments.threads)
    found = {name: run(name, arguments) for name in arguments.variants}
    if arguments.no_table:
        return
    prepare_cpu(1)
    from vla.models import load_policy

    for name in found:  # in one go, so that the costs compare
        found[name]["control_ms"] = control_ms(
            load_policy(arguments.work / name / "policy"), calls=60
        )
    table = compared(found, {name: VARIANTS[name][0] for name in found}, more=["control_ms"])
    publish(
        "action_tokens",
        ours=None,
        theirs=None,
        ratio=None,
        unit="episodes solved, of the same starts; milliseconds of one control step on one thread",
        table=table,
        steps=arguments.steps,
        seed=arguments.seed,
        variants={name: {"what": VARIANTS[name][0], **result} for name, result in found.items()},
    )


if __name__ == "__main__":
    main()
