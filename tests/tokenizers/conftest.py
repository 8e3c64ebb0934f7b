"""A policy that knows nothing, and real actions."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from vla.tokenizers import ActionTokenizer, masked_logits

SHARED = Path(os.environ.get("VLA_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))


def untrained(tokenizer: ActionTokenizer, count: int, generator: torch.Generator) -> torch.Tensor:
    """Ids (count, D) by random logits, one place after the other, as a head draws them."""
    grammar, allowed_DV = tokenizer.grammar, tokenizer.allowed_ids
    state = None if grammar is None else grammar.start(count, "cpu")
    ids = []
    for place in range(tokenizer.num_tokens):
        logits = torch.rand(count, tokenizer.vocab_size, generator=generator)
        logits = masked_logits(logits, None if allowed_DV is None else allowed_DV[place])
        if grammar is not None:
            logits = masked_logits(logits, grammar.allowed(state, place))
        ids.append(logits.argmax(-1))
        assert torch.isfinite(
            logits.gather(-1, ids[-1][:, None])
        ).all()  # something was allowed in every row
        if grammar is not None:
            state = grammar.advance(state, ids[-1], place)
    assert grammar is None or grammar.finished(state).all()
    return torch.stack(ids, -1)


@pytest.fixture(scope="session")
def draw():
    return untrained


def _needs(path: Path) -> Path:
    if not path.exists():
        pytest.skip(
            f"no {path.name} here: put it beside the checkout under shared/data, or set VLA_SHARED_DATA"
        )
    return path


@pytest.fixture(scope="session")
def bridge() -> tuple[np.ndarray, list[int]]:
    """Actions (N, 7) of 50 episodes of the Bridge robot at 5 Hz, and their lengths."""
    from rlds_actions import read_actions

    folder = _needs(SHARED / "bridge_rlds" / "bridge_dataset" / "1.0.0")
    episodes = [
        actions
        for file in sorted(folder.glob("*.tfrecord*"))
        for actions in read_actions(file, dims=7)
    ]
    return np.concatenate(episodes), [len(actions) for actions in episodes]


@pytest.fixture(scope="session")
def pick_and_place() -> tuple[np.ndarray, list[int]]:
    """Actions (N, 44) of 5 episodes of a humanoid's arms and hands at 20 Hz; most dimensions never move."""
    import pyarrow.parquet as pq

    folder = _needs(SHARED / "lerobot_v2_picknplace")
    tables = [
        pq.read_table(file, columns=["action"]) for file in sorted(folder.glob("data/*/*.parquet"))
    ]
    episodes = [np.stack(table["action"].to_numpy()).astype(np.float32) for table in tables]
    return np.concatenate(episodes), [len(actions) for actions in episodes]
