"""Two bad halves make a good path: who finds the way through a maze that no recording goes all of?

    vla collect configs/stitching.yaml
    python benchmarks/stitching.py [--variants bc iql ...] [--seeds 3] [--episodes 50]

Every variant learns from the same recordings and plays the same unseen starts, once for each seed of its training. What is
done lies in runs/stitching and is not repeated. Writes results/stitching.json and docs/stitching.svg.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from _common import prepare_cpu, publish
from _stitching_plot import picture
from _variants import compared, learn_and_play

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "stitching.yaml"
VALUES = '"discount": 0.97, "critic": {"hidden": 64}'
TRANSFORMER = (
    '{"type": "decision_transformer", "history": 10, "width": 32, "depth": 2, "heads": 2, "readouts": 2, "dropout": 0.0, '
    '"return_scale": 1.0, "max_timestep": 64, "head": {"type": "categorical"}, "tokenizer": {"type": "bins", "num_bins": 9}}'
)
VARIANTS: dict[str, tuple[str, list[str], list[str]]] = {
    "bc": ("BC", ['objective={"type": "bc"}'], []),
    "filtered_bc": ("Filtered BC", ['objective={"type": "filtered_bc"}'], []),
    "awr": ("AWR, Monte Carlo", [f'objective={{"type": "awr", {VALUES}}}'], []),
    "decision_transformer": (
        "Decision Transformer",
        [
            'objective={"type": "return_conditioned"}',
            f"policy={TRANSFORMER}",
            "steps=1000",
            "batch_size=64",
        ],
        ["target_return=1"],
    ),
    "iql": ("IQL", [], []),
    "cql": (  # rewards of ten, so that the conservative gap does not drown what differs between returns
        "CQL, argmax",
        [
            f'objective={{"type": "cql", "alpha": 0.5, "sampled": 4, "importance": false, "target_rate": 0.02, {VALUES}, '
            '"extraction": {"type": "argmax_q"}}',
            "data.rewards.scale=10",
            "steps=2000",
        ],
        [],
    ),
    "q_transformer": (
        "Q-Transformer",
        [
            'objective={"type": "q_transformer", "target_rate": 0.02, "discount": 0.97}',
            'policy.head={"type": "q_values", "hidden": 32, "depth": 1}',
        ],
        [],
    ),
}
"""name -> (title, overrides of the config's train section, overrides of its eval section)."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each variant")
    parser.add_argument("--episodes", type=int, default=50, help="played after each training")
    parser.add_argument(
        "--data", default="data/stitching", help="what `vla collect configs/stitching.yaml` made"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/stitching"))
    arguments = parser.parse_args()
    prepare_cpu(1)

    found: dict[str, dict[str, Any]] = {}
    for name in arguments.variants:
        _, training, evaluation = VARIANTS[name]
        solved: dict[str, list[bool]] = {}
        minutes = []
        for seed in range(arguments.seeds):
            result = learn_and_play(
                f"{name}, seed {seed}",
                arguments.runs / f"{name}_{seed}",
                CONFIG,
                [f"data.path={arguments.data}", f"seed={seed}", *training],
                [f"episodes_per_task={arguments.episodes}", *evaluation],
            )
            solved[f"seed {seed}"] = result["solved"]["stitch"]
            minutes.append(result["cpu_minutes"])
        found[name] = {"solved": solved, "cpu_minutes": sum(minutes) / len(minutes)}
    titles = {name: VARIANTS[name][0] for name in found}
    table = compared(found, titles, more=["cpu_minutes"])
    paths = {name: trajectories(arguments.runs / f"{name}_0" / "policy") for name in found}
    (ROOT / "docs" / "stitching.svg").write_text(
        picture(recordings(arguments.data), paths, titles, found)
    )
    publish(
        "stitching",
        ours=None,
        theirs=None,
        ratio=None,
        unit="share solved",
        table=table,
        variants=found,
    )


def recordings(data: str, most: int = 60) -> dict[str, list[np.ndarray]]:
    """Positions (T, 2) of the first recordings, by the half that they are."""
    from vla.data import EpisodeDataset

    dataset = EpisodeDataset(data)
    found: dict[str, list[np.ndarray]] = {}
    for row in dataset.episodes.head(most).itertuples():
        state = dataset.columns.state[row.first_frame : row.first_frame + row.length]
        found.setdefault(_half(row.info), []).append(state)
    return found


def _half(info: str) -> str:
    import json

    return str(json.loads(info)["expert"])


def trajectories(policy: Path, episodes: int = 15) -> list[np.ndarray]:
    """Positions (T, 2) of a policy in its first evaluation episodes."""
    import torch

    from vla.models import load_policy
    from vla.sim_eval.envs.stitch import StitchConfig
    from vla.sim_eval.rollouts.seeding import episode_seed
    from vla.types import Observation

    actor, env = load_policy(policy), StitchConfig().make("stitch")
    found = []
    for episode in range(episodes):
        observation, info = env.reset(seed=episode_seed("eval", 0, "stitch", episode))
        torch.manual_seed(episode)
        states, memory, over, reward = [observation["state"]], None, False, 0.0
        while not over:
            seen = Observation.from_numpy(
                {}, observation["state"], info["instruction"], reward=reward, target_return=1.0
            )
            actions, memory = actor.act(seen, memory)
            observation, reward, _, truncated, info = env.step(actions[0, 0].numpy())
            states.append(observation["state"])
            over = truncated or info["success"]
        found.append(np.asarray(states))
    env.close()
    return found


if __name__ == "__main__":
    main()
