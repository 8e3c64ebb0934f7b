"""The two sides of `rt1_peer`, each run in its own interpreter: `python _rt1_sides.py ours|peer THREADS CLOCK`.

Reads one JSON request per line, {"case": "forward" | "train", "batch": 1}, does that work once and answers with
{"seconds": ...}. Imports of each side stay in its function: neither environment has the other's packages.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F

FRAMES, SIZE, ACTIONS, BINS = 6, 224, 11, 256
LEARNING_RATE = 1e-4
Work = Callable[[str, int], Any]


def ours() -> tuple[Work, int]:
    """The official configuration at 224 px, from uint8 frames to action logits."""
    from _common import rt1_spec

    from vla.models import RT1Config

    policy = RT1Config(random_shift=(15, 37)).build(
        rt1_spec(SIZE)
    )  # the release's 20 and 50 px, scaled from 300
    policy.language.embed([f"do task {task}" for task in range(3)])
    optimizer = torch.optim.Adam(policy.parameters(), lr=LEARNING_RATE)
    windows = {batch: policy.spec.fake_batch(batch, FRAMES) for batch in (1, 2)}

    def work(case: str, batch: int) -> None:
        window = windows[batch]
        if case == "forward":
            policy.eval()
            with torch.no_grad():
                policy(window)
            return
        policy.train()
        loss = policy(window).actions.loss(window.actions).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return work, sum(p.numel() for p in policy.parameters())


def peer() -> tuple[Work, int]:
    """The configuration of the peer's README. Its frames come as finished floats, its text as finished vectors."""
    import classifier_free_guidance_pytorch.t5 as t5

    # its constructor would fetch a T5, which this benchmark has no use for: the sentence vectors are given
    text_dim = 768
    t5.T5_CONFIGS[t5.DEFAULT_T5_NAME] = {
        "config": SimpleNamespace(d_model=text_dim),
        "model": torch.nn.Identity(),
        "tokenizer": None,
    }
    from robotic_transformer_pytorch import RT1, MaxViT

    vit = MaxViT(
        num_classes=1000,
        dim_conv_stem=64,
        dim=96,
        dim_head=32,
        depth=(2, 2, 5, 2),
        window_size=7,
        mbconv_expansion_rate=4,
        mbconv_shrinkage_rate=0.25,
        dropout=0.1,
    )
    vit.mlp_head = torch.nn.Identity()  # never used by its RT1
    model = RT1(vit=vit, num_actions=ACTIONS, depth=6, heads=8, dim_head=64, cond_drop_prob=0.2)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    videos = {batch: torch.randn(batch, 3, FRAMES, SIZE, SIZE) for batch in (1, 2)}
    texts = {batch: torch.randn(batch, text_dim) for batch in (1, 2)}
    bins = {batch: torch.randint(0, BINS, (batch, FRAMES, ACTIONS)) for batch in (1, 2)}

    def work(case: str, batch: int) -> None:
        if case == "forward":
            model.eval()
            with torch.no_grad():
                model(videos[batch], text_embeds=texts[batch], cond_drop_prob=0.0)
            return
        model.train()
        logits = model(videos[batch], text_embeds=texts[batch])
        loss = F.cross_entropy(logits.flatten(0, -2), bins[batch].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return work, sum(p.numel() for p in model.parameters())


def release_memory() -> None:
    """Gives freed memory back to the system (glibc), so that both sides together fit into 16 GiB."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def main() -> None:
    side, threads = sys.argv[1], int(sys.argv[2])
    now = {"wall": time.perf_counter, "cpu": time.process_time}[sys.argv[3]]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not mix with the answers
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)  # before the pool's threads exist: they inherit it
    torch.manual_seed(0)
    work, parameters = {"ours": ours, "peer": peer}[side]()
    print(
        json.dumps({"parameters": parameters, "torch": torch.__version__}), file=answers, flush=True
    )
    for line in sys.stdin:
        request = json.loads(line)
        start = now()
        work(request["case"], request["batch"])
        seconds = now() - start
        release_memory()
        print(json.dumps({"seconds": seconds}), file=answers, flush=True)


if __name__ == "__main__":
    main()
