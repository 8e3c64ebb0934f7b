"""lerobot's side of `loader_peer`, run in an interpreter that has lerobot 0.4.4: a LeRobotDataset behind torch's DataLoader."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import torch
from _loader_serve import Opened, serve
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from torch.utils.data import DataLoader, RandomSampler


def video_backend() -> str:
    """lerobot's own choice is torchcodec wherever it is installed; it fails later where its libraries are not."""
    try:
        from torchcodec.decoders import VideoDecoder  # noqa: F401
    except (ImportError, RuntimeError, OSError):
        return "pyav"
    return "torchcodec"


def opening(settings: dict[str, Any]) -> Opened:
    torch.set_num_threads(1)
    backend, fps, workers = video_backend(), settings["fps"], settings["workers"]
    times = {
        settings["camera"]: [step / fps for step in range(1 - settings["history"], 1)],
        "observation.state": [step / fps for step in range(1 - settings["history"], 1)],
        "action": [step / fps for step in range(settings["chunk"])],
    }
    dataset = LeRobotDataset(
        "local/loader", root=settings["root"], delta_timestamps=times, video_backend=backend
    )
    loader = DataLoader(
        dataset,
        batch_size=settings["batch"],
        sampler=RandomSampler(dataset, replacement=True, num_samples=2**31),
        num_workers=workers,
    )

    def batches() -> Iterator[Any]:
        for batch in loader:
            expected = (
                settings["batch"],
                settings["history"],
                3,
                settings["size"],
                settings["size"],
            )
            assert tuple(batch[settings["camera"]].shape) == expected
            yield batch

    facts = {
        "ahead": workers * (loader.prefetch_factor or 0),
        "torch": torch.__version__,
        "video_backend": backend if dataset.meta.video_keys else None,
    }
    return batches(), facts


if __name__ == "__main__":
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    serve(opening)
