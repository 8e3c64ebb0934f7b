"""State-only Decision Transformer of this package against d3rlpy 2.8.1's: updates per second, and returns.

Both learn from the same episodes (`configs/locomotion_medium_replay.yaml`; datasets that are missing are collected),
with the same sizes, optimiser, warm-up and number of updates, and are asked for the same return on the same starts of the same
simulator. They learn in turn: after each round of ours the clock stops, and d3rlpy does as many updates. The first round
of every run warms up and is not counted. What is done is kept in `--work`, run by run, so that a killed benchmark goes on.
`make bench-dt_peer` makes the peer's environment, `.venv-d3rlpy`, first.

    python benchmarks/dt_peer.py --policies FOLDER [--updates 1000] [--seeds 0 1 2] [--envs hopper walker2d] [--rounds 5]
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

from _common import add_cpu_arguments, check_cpu_arguments, prepare_cpu, publish, summary
from _dt_peer_ours import SIZES, TARGETS, dataset_folder, learn, open_dataset, schedule
from _peer import (
    HORIZON,
    SIDES,
    Peer,
    Rounds,
    add_peer_arguments,
    check_peer_arguments,
    export,
    kept,
    play,
    starts,
)


def start_peer(arguments: argparse.Namespace, seed: int, data: Path) -> Peer:
    """d3rlpy's process for one run."""
    own = {name: getattr(arguments, name) for name in ("threads", "device", "compile")}
    settings = SIZES | schedule(arguments) | own | {"seed": seed, "data": str(data)}
    return Peer(arguments.peer, "_dt_peer_d3rlpy.py", settings, threads=arguments.threads)


def run(arguments: argparse.Namespace, env: str, seed: int) -> dict[str, Any]:
    """One run of both sides: they learn in turn, then both play. Returns what is kept of it."""
    from vla.sim_eval.envs.locomotion import ROBOTS

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        export(dataset_folder(arguments, env), folder / "episodes.npz")
        peer = start_peer(arguments, seed, folder / "episodes.npz")
        theirs: Rounds = []
        policy, ours = learn(
            arguments,
            env,
            seed,
            folder / "run",
            lambda updates: theirs.append(peer.ask(update=updates)),
        )
        asked = {"env_id": ROBOTS[env].env_id, "target_return": TARGETS[env], "horizon": HORIZON}
        answer = peer.ask(evaluate=starts(env, arguments.episodes), **asked)
        peer.close()
        return {
            "ours": {"rounds": ours, "returns": played(arguments, env, policy)},
            "d3rlpy": {"rounds": theirs, "returns": answer["returns"]},
            "parameters": {
                "ours": sum(p.numel() for p in policy.parameters()),
                "d3rlpy": peer.facts["parameters"],
            },
            "peer": peer.facts,
        }


def played(arguments: argparse.Namespace, env: str, policy: Any = None) -> list[float]:
    """Returns of our policy, or of the expert."""
    return play(
        env,
        policy,
        policies=arguments.policies,
        seeds=starts(env, arguments.episodes),
        threads=arguments.threads,
        target=None if policy is None else TARGETS[env],
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--updates", type=int, default=1000, help="of each run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--envs", nargs="+", choices=sorted(TARGETS), default=sorted(TARGETS))
    parser.add_argument("--rounds", type=int, default=5, help="of a run; the first is not clocked")
    parser.add_argument("--episodes", type=int, default=10, help="that each trained policy plays")
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument(
        "--warmup-updates", type=int, default=100, help="the paper has 10,000 of 100,000"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--compile",
        action="store_true",
        help="torch.compile; d3rlpy has CUDA graphs, on GPUs alone",
    )
    add_peer_arguments(parser, work="runs/dt_peer")
    add_cpu_arguments(parser)
    arguments = parser.parse_args()
    check_cpu_arguments(parser, arguments)
    check_peer_arguments(parser, arguments)
    return arguments


def measure(arguments: argparse.Namespace, settings: dict[str, Any], env: str) -> dict[str, Any]:
    """All runs on one robot, those that were done before from their files."""
    data, asked = open_dataset(arguments, env), {"env": env, "target_return": TARGETS[env]}
    known = {"episodes": arguments.episodes, "env": env}
    expert = kept(arguments.work / f"{env}_expert.json", known, lambda: played(arguments, env))
    runs = []
    for seed in arguments.seeds:
        known = settings | asked | {"seed": seed, "data": data}
        runs.append(
            kept(
                arguments.work / f"{env}_{seed}.json",
                known,
                lambda seed=seed: run(arguments, env, seed),
            )
        )
    expert_return = statistics.fmean(expert)
    shares = {
        side: [round(statistics.fmean(one[side]["returns"]) / expert_return, 3) for one in runs]
        for side in SIDES
    }
    return asked | {"data": data, "expert": expert_return, "share_of_expert": shares, "runs": runs}


def main() -> None:
    from rich.table import Table

    arguments = parse()
    if arguments.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # d3rlpy's process inherits it
    prepare_cpu(arguments.threads)
    names = ("updates", "rounds", "episodes", "threads", "device", "compile")
    settings = SIZES | schedule(arguments) | {name: getattr(arguments, name) for name in names}
    cases = [measure(arguments, settings, env) for env in arguments.envs]

    every = [one for case in cases for one in case["runs"]]
    seconds = {
        clock: {
            side: summary([r[clock] for one in every for r in one[side]["rounds"][1:]])
            for side in SIDES
        }
        for clock in ("wall", "cpu")
    }
    per_round = arguments.updates // arguments.rounds
    ours, theirs = (per_round / seconds[arguments.clock][side]["median"] for side in SIDES)
    table = Table(
        title=f"Decision Transformer, {arguments.updates} updates, {len(arguments.seeds)} seeds"
    )
    for column in ("", "ours", f"d3rlpy {every[0]['peer']['d3rlpy']}", "ratio"):
        table.add_column(column, justify="right" if column else "left")
    table.add_row("updates per second", f"{ours:.2f}", f"{theirs:.2f}", f"{ours / theirs:.2f}")
    for case in cases:
        a, b = (100 * statistics.fmean(case["share_of_expert"][side]) for side in SIDES)
        table.add_row(
            f"{case['env']}: return, % of the expert's",
            f"{a:.1f}",
            f"{b:.1f}",
            f"{a / b:.2f}" if b > 0 else "-",
        )
    publish(
        "dt_peer",
        ours=ours,
        theirs=theirs,
        ratio=ours / theirs,
        unit=f"updates per second ({arguments.clock} clock); `cases` has the returns",
        table=table,
        cases=[{key: value for key, value in case.items() if key != "runs"} for case in cases],
        returns={
            case["env"]: {side: [one[side]["returns"] for one in case["runs"]] for side in SIDES}
            for case in cases
        },
        seconds_per_round=seconds,
        updates_per_round=per_round,
        settings=settings,
        seeds=arguments.seeds,
        parameters=every[0]["parameters"],
        peer=every[0]["peer"],
        clock=arguments.clock,
        method=(
            "vla.train and d3rlpy's fit in turn, round by round, in processes of their own on the same threads, denormals "
            "flushed, medians over all rounds of all runs but each run's first; no validation, no saving; then both play "
            "the same episodes and are asked for the same return"
        ),
    )


if __name__ == "__main__":
    main()
