"""Lets Meta-World's experts demonstrate two tasks, and looks at what they recorded.

    python examples/01_collect_and_look.py [FOLDER]

Without a folder the dataset goes to a temporary one. The picture is runs/demonstration.png.
"""

import sys
import tempfile

import vla
from vla.sim_eval import film_strip


def main(folder: str) -> None:
    config = vla.load_config(
        vla.CollectConfig,
        {
            "env": {
                "type": "metaworld",
                "tasks": ["drawer-open", "window-close"],
                "image_size": 64,
            },
            "out": folder,
            "episodes_per_task": 2,
            "noise": {
                "std": 0.4
            },  # bursts that push the arm aside; the recorded actions stay the expert's own
            "workers": 1,
        },
    )
    vla.collect(config)

    dataset = vla.EpisodeDataset(folder)
    print(
        f"{dataset.num_episodes} episodes, {dataset.num_frames} steps at {dataset.spec.control_hz:g} Hz"
    )
    for index in range(dataset.num_episodes):
        episode = dataset.episode(index)
        print(
            f"{episode.instruction!r}: {len(episode)} steps, {episode.info['noisy_steps']} of them disturbed, "
            f"return {episode.rewards.sum():.0f}, {'solved' if episode.success.any() else 'not solved'}"
        )
    print(
        "picture:",
        film_strip("runs/demonstration.png", episode.frames("corner2"), episode.instruction),
    )


if __name__ == "__main__":  # workers are processes of their own, which import this file
    if len(sys.argv) > 1:
        main(sys.argv[1])
    else:
        with tempfile.TemporaryDirectory() as scratch:
            main(f"{scratch}/dataset")
