"""The half that runs where the real lerobot is installed: reads datasets, or writes one. Knows nothing of vla.

python lerobot_side.py read HISTORY CHUNK RESULTS DATASET [DATASET ...]
python lerobot_side.py write DATASET images|h264|libsvtav1
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset

# Its av1 encoder dies of much smaller pictures.
FPS, SIZE, EPISODES = 10, (64, 96), 3


def backends() -> list[str]:
    """The video decoders of lerobot that work here."""
    try:
        import torchcodec.decoders  # noqa: F401
    except (ImportError, RuntimeError):
        return ["pyav"]
    return ["torchcodec", "pyav"]


def read(root: Path, results: Path, history: int, chunk: int) -> None:
    """Saves every window that lerobot loads, the tasks as text and the statistics; for videos once per decoder."""
    info = json.loads((root / "meta/info.json").read_text())
    step = 1 / info["fps"]
    past = [-step * back for back in range(history - 1, -1, -1)]
    cameras = {
        name: f["dtype"] for name, f in info["features"].items() if f["dtype"] in ("image", "video")
    }
    deltas = dict.fromkeys([*cameras, "observation.state"], past) | {
        "action": [step * k for k in range(chunk)]
    }
    for backend in backends() if "video" in cameras.values() else ["images"]:
        chosen = {} if backend == "images" else {"video_backend": backend}
        dataset = LeRobotDataset("local/interop", root=root, delta_timestamps=deltas, **chosen)
        items = [dataset[i] for i in range(len(dataset))]
        arrays = {
            name: np.stack([item[name].numpy() for item in items])
            for name in items[0]
            if name != "task"
        }
        stats = {
            f"stats/{feature}/{key}": np.asarray(value)
            for feature, values in dataset.meta.stats.items()
            for key, value in values.items()
        }
        tasks = np.array([item["task"] for item in items])
        totals = {"episodes": dataset.num_episodes, "frames": len(dataset)}
        np.savez(results / f"{root.name}.{backend}.npz", tasks=tasks, **totals, **arrays, **stats)


def write(root: Path, storage: str) -> None:
    """Episodes whose content follows from episode and step; lerobot encodes images or videos and writes tables."""
    video = storage != "images"
    names = ["height", "width", "channels"]
    features = {
        "observation.images.top": {
            "dtype": "video" if video else "image",
            "shape": (*SIZE, 3),
            "names": names,
        },
        "observation.state": {"dtype": "float32", "shape": (2,), "names": ["x", "y"]},
        "action": {"dtype": "float32", "shape": (2,), "names": ["dx", "dy"]},
        "next.reward": {"dtype": "float32", "shape": (1,), "names": None},
    }
    codec = {"vcodec": storage} if video else {}
    dataset = LeRobotDataset.create(
        "local/interop", fps=FPS, features=features, root=root, use_videos=video, **codec
    )
    for episode in range(EPISODES):
        for step in range(4 + episode):
            dataset.add_frame(
                {
                    "observation.images.top": np.full(
                        (*SIZE, 3), 40 * episode + 8 * step, np.uint8
                    ),
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
            read(folder, Path(sys.argv[4]), int(sys.argv[2]), int(sys.argv[3]))
    else:
        write(Path(sys.argv[2]), sys.argv[3])
