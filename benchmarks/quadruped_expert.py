"""How often the quadruped's scripted expert solves each family, with and without adverbs, and what a step costs.

Seeds are those of nothing else: neither demonstrations nor evaluations use them. With adverbs, speeds and gaits are drawn
for every episode, and both are judged by what was walked; beside success it is counted how often the gait that is read from
the feet is the one asked for. QUART's rule is counted in the same episodes without adverbs.

    python benchmarks/quadruped_expert.py [--episodes 100] [--save]
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from _common import publish

FIRST_SEED = 900_000
SIZE = 96


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--episodes", type=int, default=100, help="of each family, each way")
    parser.add_argument("--workers", type=int, default=1, help="processes that play")
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results")
    arguments = parser.parse_args()
    from vla.sim_eval.envs.quadruped_parts.language import FAMILIES

    jobs = [(family, arguments.episodes, manner) for family in FAMILIES for manner in (False, True)]
    # spawned: a rendering context does not survive a fork
    context = multiprocessing.get_context("spawn")
    with context.Pool(arguments.workers) as pool:
        played = pool.starmap(play, jobs, chunksize=1)
    rows: dict[str, dict[str, Any]] = {family: {} for family in FAMILIES}
    for (family, _, manner), found in zip(jobs, played, strict=True):
        rows[family]["adverbs" if manner else "plain"] = found
    costs = cost()
    solved = sum(row["plain"]["solved"] for row in rows.values())
    publish(
        "quadruped_expert",
        ours=solved / (arguments.episodes * len(rows)),
        theirs=None,
        ratio=None,
        unit="share of episodes that the expert solves, without adverbs",
        table=table(rows),
        path=None if arguments.save else Path(tempfile.mkdtemp()) / "quadruped_expert.json",
        episodes=arguments.episodes,
        families=rows,
        cost=costs,
        image_size=SIZE,
    )


def play(family: str, episodes: int, manner: bool) -> dict[str, Any]:
    """Counts of one family's episodes."""
    from vla.sim_eval.envs.quadruped import QuadrupedConfig

    env = QuadrupedConfig(image_size=SIZE, manner=manner).make(family)
    env.render_images = False
    solved = quart = same_gait = steps = 0
    failures: Counter[str] = Counter()
    for number in range(episodes):
        env.reset(seed=FIRST_SEED + number)
        over = False
        while not over:
            _, _, terminated, truncated, info = env.step(env.expert_action())
            steps += 1
            over = bool(info["success"] or terminated or truncated)
        solved += info["success"]
        quart += env.progress.meets_quart
        if env.manner is not None:
            same_gait += env.watch.gauge.gait == env.manner.gait
        if info["failure"]:
            failures[info["failure"]] += 1
    env.close()
    found = {
        "solved": solved,
        "episodes": episodes,
        "quart": quart,
        "steps": round(steps / episodes, 1),
        "failures": dict(failures),
    }
    print(family, "with adverbs" if manner else "", solved, dict(failures), flush=True)
    return found | ({"gait_recognised": same_gait} if manner else {})


def cost() -> dict[str, float]:
    """Milliseconds of processor time of a control step and of a picture, for one family."""
    from vla.sim_eval.envs.quadruped import QuadrupedConfig

    env = QuadrupedConfig(image_size=SIZE).make("go-avoid")
    env.reset(seed=FIRST_SEED)
    env.render_images = False
    start = time.process_time()
    for _ in range(60):
        env.step(env.expert_action())
    step = time.process_time() - start
    env.render_images = True
    start = time.process_time()
    for _ in range(60):
        env.observe()
    picture = time.process_time() - start
    env.close()
    return {"step_ms": round(1000 * step / 60, 2), "picture_ms": round(1000 * picture / 60, 2)}


def table(rows: dict[str, dict[str, Any]]) -> Any:
    from rich.table import Table

    shown = Table(title="episodes that the expert solves")
    for column in ("family", "plain", "by QUART's rule", "with adverbs", "gait recognised"):
        shown.add_column(column, justify="left" if column == "family" else "right")
    for family, row in rows.items():
        plain, manner = row["plain"], row["adverbs"]
        shown.add_row(
            family,
            f"{plain['solved']} of {plain['episodes']}",
            str(plain["quart"]),
            f"{manner['solved']} of {manner['episodes']}",
            str(manner["gait_recognised"]),
        )
    return shown


if __name__ == "__main__":
    main()
