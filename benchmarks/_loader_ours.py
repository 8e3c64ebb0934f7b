"""Our side of `loader_peer`: `Windows` and its prefetching, in a process of its own so that its memory can be measured."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from _loader_serve import Opened, serve

from vla.data import EpisodeDataset, Windows, WindowSampler, prefetch

DEPTH = 2


def opening(settings: dict[str, Any]) -> Opened:
    """Of `workers` threads one makes batches ahead and the others help it copy; with none, the caller makes each batch."""
    torch.set_num_threads(1)
    workers = settings["workers"]
    windows = Windows(
        EpisodeDataset(settings["root"]),
        history=settings["history"],
        chunk=settings["chunk"],
        cache=settings["cache"],
        cache_folder=settings["cache_folder"],
        threads=max(1, workers),
    )
    sampler = WindowSampler(len(windows), batch_size=settings["batch"], seed=0)

    def batches() -> Iterator[Any]:
        for step in itertools.count():
            batch = windows.batch(sampler.indices(step))
            [images] = batch.images.values()
            if settings["floats"]:
                yield batch, images.permute(0, 1, 4, 2, 3).to(torch.float32).div_(255)
            else:
                yield batch

    facts = {"ahead": DEPTH + 1 if workers else 0, "torch": torch.__version__}
    return (prefetch(batches(), DEPTH) if workers else batches()), facts


if __name__ == "__main__":
    serve(opening)
