"""Offline RL of this package against d3rlpy 2.8.1's: updates per second, and returns of what was learned.

IQL, AWAC, TD3+BC, CQL and imitation of the best tenth of the episodes, on nine locomotion datasets (three robots; medium,
medium-replay, medium-expert; those that are missing are collected), with the same networks, batches, learning rates and
number of updates. They learn in turn: after each round of ours the clock stops, and d3rlpy does as many updates. The
first round of every run warms up and is not counted. The last checkpoints of both then play the same episodes in the same
simulator. What is done is kept in `--work`, run by run, so that a killed benchmark goes on.
`make bench-offline_rl_peer` makes the peer's environment, `.venv-d3rlpy`, first.

    python benchmarks/offline_rl_peer.py --policies FOLDER --threads 1 --clock cpu [--envs hopper] [--sets medium]
        [--algorithms iql td3_bc] [--seeds 0 1 2] [--updates 10000]
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _common import add_cpu_arguments, check_cpu_arguments, prepare_cpu, publish, summary
from _offline_rl_ours import (
    ALGORITHMS,
    ENVS,
    SETS,
    PeerActor,
    dataset_folder,
    learn,
    open_dataset,
    settings_of,
)
from _peer import (
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

CRITIC_SCALE = 0.01
"""Our default."""


def run(
    arguments: argparse.Namespace, env: str, kind: str, algorithm: str, seed: int
) -> dict[str, Any]:
    """One run of both sides: they learn in turn, then both play. Returns what is kept of it."""
    data = dataset_folder(arguments, env, kind)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        export(data, folder / "episodes.npz")
        settings = settings_of(algorithm) | {
            "seed": seed,
            "threads": arguments.threads,
            "data": str(folder / "episodes.npz"),
        }
        peer = Peer(arguments.peer, "_offline_rl_d3rlpy.py", settings, threads=arguments.threads)
        theirs: Rounds = []
        policy, ours = learn(
            arguments,
            data,
            algorithm,
            seed,
            folder / "run",
            lambda updates: theirs.append(peer.ask(update=updates)),
        )
        returns = {
            "ours": played(arguments, env, policy),
            "d3rlpy": played(arguments, env, PeerActor(peer, policy.spec)),
        }
        peer.close()
        return {
            "ours": {"rounds": ours, "returns": returns["ours"]},
            "d3rlpy": {"rounds": theirs, "returns": returns["d3rlpy"]},
            "peer": peer.facts,
        }


def played(arguments: argparse.Namespace, env: str, actor: Any = None) -> list[float]:
    """Returns of an actor, or of the expert, in our simulator, from the same starts."""
    seeds = starts(env, arguments.episodes)
    return play(env, actor, policies=arguments.policies, seeds=seeds, threads=arguments.threads)


def measure(arguments: argparse.Namespace, env: str, kind: str) -> list[dict[str, Any]]:
    """All algorithms on one dataset, those that were done before from their files."""
    data = open_dataset(arguments, env, kind)
    known: dict[str, Any] = {"episodes": arguments.episodes, "env": env}
    expert = statistics.fmean(
        kept(arguments.work / f"{env}_expert.json", known, lambda: played(arguments, env))
    )
    cases = []
    for algorithm in arguments.algorithms:
        runs = []
        for seed in arguments.seeds:
            given = {
                name: getattr(arguments, name)
                for name in ("updates", "rounds", "episodes", "threads")
            }
            known = (
                settings_of(algorithm)
                | given
                | {"env": env, "set": kind, "seed": seed, "data": data}
            )
            scale = f"_{arguments.critic_scale:g}" if arguments.critic_scale != CRITIC_SCALE else ""
            file = (
                arguments.work / f"{env}_{kind}_{algorithm}_{seed}_{arguments.updates}{scale}.json"
            )
            runs.append(
                kept(file, known, lambda a=algorithm, s=seed: run(arguments, env, kind, a, s))
            )
            shown = ", ".join(
                f"{side} {statistics.fmean(runs[-1][side]['returns']):.0f}" for side in SIDES
            )
            print(f"{env} {kind} {algorithm} seed {seed}: {shown}", flush=True)
        share = {
            side: [statistics.fmean(one[side]["returns"]) / expert for one in runs]
            for side in SIDES
        }
        cases.append(
            {
                "env": env,
                "set": kind,
                "algorithm": algorithm,
                "expert": expert,
                "data": data,
                "runs": runs,
            }
            | {"share_of_expert": share, "p_worse": worse(share["ours"], share["d3rlpy"])}
        )
    return cases


def worse(ours: Sequence[float], theirs: Sequence[float]) -> float | None:
    """Probability of seeds so much in their favour where both are alike (Welch's t over seeds, one-sided)."""
    from scipy.stats import ttest_ind

    if len(ours) < 2:
        return None
    p = float(ttest_ind(ours, theirs, equal_var=False, alternative="less").pvalue)
    return p if p == p else 1.0  # all alike


def speed(
    cases: Sequence[dict[str, Any]], arguments: argparse.Namespace, clock: str
) -> dict[str, Any]:
    """Updates per second of both sides, medians over all rounds of the cases' runs but each run's first."""
    seconds = {
        side: summary(
            [r[clock] for case in cases for one in case["runs"] for r in one[side]["rounds"][1:]]
        )
        for side in SIDES
    }
    per_round = arguments.updates // arguments.rounds
    rates = {side: per_round / seconds[side]["median"] for side in SIDES}
    return {
        "updates_per_s": rates,
        "ratio": rates["ours"] / rates["d3rlpy"],
        "seconds_per_round": seconds,
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--envs", nargs="+", choices=ENVS, default=list(ENVS))
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument(
        "--algorithms", nargs="+", choices=list(ALGORITHMS), default=list(ALGORITHMS)
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--updates", type=int, default=10000, help="of each run")
    parser.add_argument("--rounds", type=int, default=5, help="of a run; the first is not clocked")
    parser.add_argument("--episodes", type=int, default=10, help="that each trained policy plays")
    parser.add_argument(
        "--critic-scale",
        type=float,
        default=CRITIC_SCALE,
        help="`critic.output_scale` of ours; d3rlpy's networks have 1",
    )
    parser.add_argument(
        "--output", type=Path, help="the result's file, by default results/offline_rl_peer.json"
    )
    add_peer_arguments(parser, work="runs/offline_rl_peer")
    add_cpu_arguments(parser)
    arguments = parser.parse_args()
    check_cpu_arguments(parser, arguments)
    check_peer_arguments(parser, arguments)
    return arguments


def main() -> None:
    from rich.table import Table

    arguments = parse()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # d3rlpy's process inherits it
    prepare_cpu(arguments.threads)
    cases = [
        case
        for env in arguments.envs
        for kind in arguments.sets
        for case in measure(arguments, env, kind)
    ]

    from vla.sim_eval.statistics.hypothesis_tests import holm

    tested = [case for case in cases if case["p_worse"] is not None]
    for case, p in zip(
        tested, holm([case["p_worse"] for case in tested]) if tested else [], strict=True
    ):
        case["p_worse_holm"] = p
    peer = cases[0]["runs"][0]["peer"]
    table = Table(
        title=f"Offline RL, {arguments.updates} updates, {len(arguments.seeds)} seeds; % of the expert's return"
    )
    for column in ("", "ours", f"d3rlpy {peer['d3rlpy']}", "p worse"):
        table.add_column(column, justify="right" if column else "left")
    for case in cases:
        means = [f"{100 * statistics.fmean(case['share_of_expert'][side]):.1f}" for side in SIDES]
        p = "-" if case["p_worse"] is None else f"{case['p_worse']:.3f}"
        table.add_row(f"{case['env']} {case['set']} {case['algorithm']}", *means, p)
    speeds = {
        algorithm: speed(
            [case for case in cases if case["algorithm"] == algorithm], arguments, arguments.clock
        )
        for algorithm in arguments.algorithms
    }
    for algorithm, found in speeds.items():
        rates = [f"{found['updates_per_s'][side]:.1f}" for side in SIDES]
        table.add_row(f"{algorithm}: updates per second", *rates, f"{found['ratio']:.2f}x")
    slowest = min(speeds.values(), key=lambda found: found["ratio"])
    publish(
        "offline_rl_peer",
        ours=slowest["updates_per_s"]["ours"],
        theirs=slowest["updates_per_s"]["d3rlpy"],
        ratio=slowest["ratio"],
        unit=f"updates per second ({arguments.clock} clock) of the algorithm with the least ratio; `speeds` has all",
        table=table,
        path=arguments.output,
        speeds=speeds,
        significantly_worse=[
            f"{case['env']} {case['set']} {case['algorithm']}"
            for case in tested
            if case["p_worse_holm"] < 0.05
        ],
        cases=[{key: value for key, value in case.items() if key != "runs"} for case in cases],
        returns=[
            {key: case[key] for key in ("env", "set", "algorithm")}
            | {side: [one[side]["returns"] for one in case["runs"]] for side in SIDES}
            for case in cases
        ],
        settings={algorithm: settings_of(algorithm) for algorithm in arguments.algorithms},
        updates=arguments.updates,
        rounds=arguments.rounds,
        episodes=arguments.episodes,
        seeds=arguments.seeds,
        critic_scale=arguments.critic_scale,
        threads=arguments.threads,
        clock=arguments.clock,
        peer=peer,
        method=(
            "vla.train and d3rlpy's fit in turn, round by round, in processes of their own on the same threads, denormals "
            "flushed, medians over all rounds of all runs but each run's first; no validation, no saving; then the last "
            "policies of both play the same episodes in our simulator, taking their best actions; p worse: one-sided "
            "Welch's t over the seeds' mean returns, `significantly_worse` after Holm's correction over all cases"
        ),
    )


if __name__ == "__main__":
    main()
