"""The half that runs where the real lerobot is installed: reads datasets, or writes one. Knows nothing of vla.

python lerobot_side.py read DATASET RESULT.npz HISTORY CHUNK
python lerobot_side.py write DATASET
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset


def read(root: Path, result: Path, history: int, chunk: int) -> None:
    """Saves every window that lerobot loads, the tasks as text and the statistics."""
    info = json.loads((root / "meta/info.json").read_text())
    step = 1 / info["fps"]
    past = [-step * back for back in range(history - 1, -1, -1)]
    cameras = [name for name, feature in info["features"].items() if feature["dtype"] == "image"]
    deltas = dict.fromkeys([*cameras, "observation.state"], past) | {"action": [step * k for k in range(chunk)]}
    dataset = LeRobotDataset("local/interop", root=root, delta_timestamps=deltas)
    items = [dataset[i] for i in range(len(dataset))]
    arrays = {name: np.stack([item[name].numpy() for item in items]) for name in items[0] if name != "task"}
    tasks = [item["task"] for item in items]
    stats = {
        f"stats/{feature}/{key}": np.asarray(value)
        for feature, values in dataset.meta.stats.items()
        for key, value in values.items()
    }
    np.savez(result, tasks=np.array(tasks), episodes=dataset.num_episodes, frames=len(dataset), **arrays, **stats)


def write(root: Path) -> None:
    """Three episodes whose content follows from episode and step; lerobot encodes images and writes tables."""
    features = {
        "observation.images.top": {"dtype": "image", "shape": (16, 24, 3), "names": ["height", "width", "channels"]},
        "observation.state": {"dtype": "float32", "shape": (2,), "names": ["x", "y"]},
        "action": {"dtype": "float32", "shape": (2,), "names": ["dx", "dy"]},
        "next.reward": {"dtype": "float32", "shape": (1,), "names": None},
    }
    dataset = LeRobotDataset.create("local/interop", fps=10, features=features, root=root, use_videos=False)
    for episode in range(3):
        for step in range(4 + episode):
            dataset.add_frame(
                {
                    "observation.images.top": np.full((16, 24, 3), 40 * episode + step, np.uint8),
                    "observation.state": np.array([episode, step], np.float32),
                    "action": np.array([0.1 * episode, -0.1 * step], np.float32),
                    "next.reward": np.array([step], np.float32),
                    "task": f"task {episode % 2}",
                }
            )
        dataset.save_episode()
    dataset.finalize()


if __name__ == "__main__":
    if sys.argv[1] == "read":
        for folder in map(Path, sys.argv[5:]):
            read(folder, Path(sys.argv[4]) / f"{folder.name}.npz", int(sys.argv[2]), int(sys.argv[3]))
    else:
        write(Path(sys.argv[2]))
