"""Bounds and compression on demonstrations: Meta-World's experts, the Bridge robot, a humanoid's arms and hands."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vla.tokenizers import (
    BinsConfig,
    FastConfig,
    KMeansConfig,
    RVQConfig,
    TokenizerConfig,
    TokenizerError,
)
from vla.tokenizers.chunks import chunk_rows
from vla.types import Spec

TASKS = ("reach", "drawer-open", "window-close", "button-press-topdown")
CONFIGS: dict[str, TokenizerConfig] = {
    "bins": BinsConfig(),
    "bins quantile": BinsConfig(scheme="quantile", quantiles=(0.0, 1.0)),
    "bins mu_law": BinsConfig(scheme="mu_law"),
    "fast": FastConfig(quantiles=(0.0, 1.0)),
    "fast short": FastConfig(quantiles=(0.0, 1.0), max_tokens=24),
    "rvq": RVQConfig(codebooks=2, codes=32),
    "kmeans": KMeansConfig(),
}


@pytest.fixture(scope="module")
def metaworld() -> list[dict[str, np.ndarray]]:
    """Three episodes of the expert in each of four tasks, 80 Hz: actions (L, 4) and states (L, 4)."""
    from vla.sim_eval.envs.metaworld import MetaworldConfig

    found = []
    for task in TASKS:
        env = MetaworldConfig(image_size=32, horizon=150).make(task)
        env.render_images = False
        for seed in range(3):
            observation, _ = env.reset(seed=seed)
            states, actions, over = [], [], False
            while not over:
                states.append(observation["state"])
                actions.append(env.expert_action())
                observation, _, _, over, _ = env.step(actions[-1])
            found.append({"state": np.stack(states), "actions": np.stack(actions)})
        env.close()
    return found


def spec_of(actions: np.ndarray, hz: float) -> Spec:
    low, high = actions.min(0) - 0.01, actions.max(0) + 0.01
    return Spec(
        {}, (), tuple(f"a{i}" for i in range(actions.shape[1])), tuple(low), tuple(high), hz
    )


def check_bound(
    config: TokenizerConfig, actions: np.ndarray, lengths: list[int], chunk: int
) -> None:
    rows = torch.tensor(actions)
    tokenizer = config.build(spec_of(actions, 10), chunk).fit(rows, lengths=lengths)
    chunks = rows.clamp(*tokenizer.fitted_range)[chunk_rows(lengths, chunk, most=800)]
    error_A = (
        (tokenizer.decode(tokenizer.encode(chunks)).double() - chunks.double()).abs().amax((0, 1))
    )
    assert (error_A <= tokenizer.error_bound.double()).all()


@pytest.mark.parametrize("name", CONFIGS)
def test_bound_on_metaworld(name, metaworld):
    actions = np.concatenate([e["actions"] for e in metaworld])
    check_bound(CONFIGS[name], actions, [len(e["actions"]) for e in metaworld], 8)


@pytest.mark.parametrize("name", CONFIGS)
def test_bound_on_bridge(name, bridge):
    check_bound(CONFIGS[name], *bridge, 5)


@pytest.mark.parametrize("name", CONFIGS)
def test_bound_on_pick_and_place(name, pick_and_place):
    if name == "bins quantile":  # most of its 44 dimensions never move
        with pytest.raises(TokenizerError, match=r"action 'a7'.*hardly vary.*use scheme 'uniform'"):
            check_bound(CONFIGS[name], *pick_and_place, 20)
        return
    check_bound(CONFIGS[name], *pick_and_place, 20)


def compression(episodes: list[np.ndarray], chunk: int, hz: float) -> float:
    """Tokens of bins over the mean number of FAST's, in whole chunks of every fifth episode; fitted to the others."""
    fitted = [e for i, e in enumerate(episodes) if i % 5 != 4]
    rows = torch.tensor(np.concatenate(fitted))
    tokenizer = (
        FastConfig()
        .build(spec_of(rows.numpy(), hz), chunk)
        .fit(rows, lengths=[len(e) for e in fitted])
    )
    windows = [torch.tensor(e).unfold(0, chunk, 1).transpose(1, 2) for e in episodes[4::5]]
    ids = tokenizer.encode(torch.cat(windows))
    moving = tokenizer.num_coefficients  # what never moves would cost bins tokens and FAST none
    return moving / float((ids != tokenizer.pad_id).sum(1).float().mean())


def resampled(values: np.ndarray, hz: float, new_hz: float) -> np.ndarray:
    """Straight lines between the samples, at another rate."""
    times = np.arange(int(len(values) * new_hz / hz)) * hz / new_hz
    return np.stack([np.interp(times, np.arange(len(values)), v) for v in values.T], 1).astype(
        np.float32
    )


def test_compression_at_5_hz(bridge):
    actions, lengths = bridge
    assert compression(np.split(actions, np.cumsum(lengths)[:-1]), 5, 5) >= 1.7  # one second


def test_compression_of_smooth_chunks_at_50_hz(pick_and_place):
    """Joint angles of a person's arms, 20 samples per second resampled to 50."""
    actions, lengths = pick_and_place
    episodes = [resampled(e, 20, 50) for e in np.split(actions, np.cumsum(lengths)[:-1])]
    assert compression(episodes, 50, 50) >= 9


def test_compression_of_the_experts_paths_at_50_hz(metaworld):
    """Where the hand goes (m) and the gripper's command: actions as positions, 80 samples per second resampled at 50."""
    episodes = [np.concatenate([e["state"][:, :3], e["actions"][:, 3:]], 1) for e in metaworld]
    assert compression([resampled(e, 80, 50) for e in episodes], 50, 50) >= 9
