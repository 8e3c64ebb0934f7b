"""Further datasets in every batch: exact shares, the policy's cameras and state, exact resumption, several processes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import training_toy
from training_toy import toy_config

from vla.config import ConfigError
from vla.data import DatasetWriter, Episode, EpisodeDataset, Windows, WindowSampler
from vla.data.loading.interleaved_sampler import InterleavedSampler
from vla.data.loading.replay_mixture import AdaptedWindows, ReplayMixture
from vla.training import train
from vla.types import Spec


def write_other(root: Path, *, actions: Sequence[str] = ("dx", "dy"), low: float = -1.0) -> Path:
    """Larger pictures of another camera, and a state that shares one dimension with the toy's."""
    spec = Spec(
        cameras={"top": (64, 64), "unused": (8, 8)},
        state_names=("y", "gripper"),
        action_names=tuple(actions),
        action_low=(low,) * len(actions),
        action_high=(1.0,) * len(actions),
        control_hz=5.0,
    )
    with DatasetWriter(root, spec) as writer:
        for episode in range(2):
            done = np.arange(10) == 9
            writer.add_episode(
                Episode(
                    images={
                        "top": np.full((10, 64, 64, 3), 40 + episode, np.uint8),
                        "unused": np.zeros((10, 8, 8, 3), np.uint8),
                    },
                    state=np.stack([np.arange(10.0), np.full(10, 7.0)], 1).astype(np.float32),
                    actions=np.full((10, len(actions)), 0.5, np.float32),
                    rewards=done.astype(np.float32),
                    success=done,
                    terminated=True,
                    instruction="go right" if episode else "go left",
                )
            )
    return root


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_other(tmp_path_factory.mktemp("other") / "data")


def _mixture(data: Path, other: Path) -> ReplayMixture:
    first = Windows(EpisodeDataset(data), history=2, chunk=2)
    further = Windows(EpisodeDataset(other), history=2, chunk=2, cameras=["top"])
    fill = first.states.mean(0)
    adapted = AdaptedWindows(
        further, training_toy.SPEC, cameras={"front": "top"}, fill=fill, first_task=2
    )
    return ReplayMixture(first, [adapted], [Fraction("0.25")])


def test_windows_of_another_robot_as_the_policy_would_have_seen_them(
    data: Path, other: Path
) -> None:
    mixture = _mixture(data, other)
    first = len(mixture.first)
    assert (first, len(mixture)) == (96, 116)
    batch = mixture.batch(np.array([first + 12, 5, first + 3]))
    assert batch.images["front"].shape == (3, 2, 32, 32, 3)
    assert [int(image.float().mean()) for image in batch.images["front"][[0, 2]]] == [41, 40]
    own = mixture.first.batch(np.array([5]))
    assert torch.equal(batch.images["front"][1], own.images["front"][0])
    assert torch.equal(batch.state[1], own.state[0])
    # y is the data's, x the mean of the policy's own data, gripper is dropped
    assert batch.state[0, :, 1].tolist() == [1.0, 2.0]
    torch.testing.assert_close(
        batch.state[0, :, 0], torch.full((2,), float(mixture.first.states[:, 0].mean()))
    )
    # what normalisation is fitted to: a quarter of it, evenly spread, from the 20 frames of the other dataset
    assert mixture.states.shape == (72 + 24, 2)
    assert mixture.states[72:, 1].mean() == pytest.approx(4.5, abs=0.2)
    assert batch.task_index.tolist() == [3, 0, 2]
    assert batch.instruction == ["go right", "go left", "go left"]
    with pytest.raises(IndexError, match="0 to 115"):
        mixture.batch(np.array([116]))


def _sampler(rank: int = 0, world: int = 1, size: int = 8) -> InterleavedSampler:
    samplers = [WindowSampler(n, batch_size=1, seed=seed) for seed, n in enumerate((20, 10, 6))]
    shares = [Fraction("0.3"), Fraction("0.05")]
    return InterleavedSampler(
        samplers, shares, batch_size=size, seed=3, rank=rank, world_size=world
    )


def test_shares_are_exact_and_every_window_comes_equally_often() -> None:
    sampler = _sampler()
    rows = [sampler.indices(step) for step in range(100)]
    for steps in (1, 7, 40, 100):
        drawn = np.concatenate(rows[:steps])
        second, third = int(((drawn >= 20) & (drawn < 30)).sum()), int((drawn >= 30).sum())
        assert (second, third) == (steps * 8 * 3 // 10, steps * 8 // 20)
    counts = np.bincount(np.concatenate(rows), minlength=36)
    assert set(counts[20:30]) == {24}  # 240 draws of 10 windows
    assert set(counts[:20]) == {26}  # 520 of 20
    assert all(len(set(row[row < 20])) == (row < 20).sum() for row in rows[:3])


def test_a_step_is_a_pure_function_and_processes_share_it_out() -> None:
    whole = _sampler().indices(17)
    assert np.array_equal(_sampler().indices(17), whole)
    parts = [_sampler(rank, 2).indices(17) for rank in range(2)]
    assert np.array_equal(np.stack(parts, 1).flatten(), whole)
    assert not np.array_equal(np.sort(whole), whole)  # mixed: no process has one dataset alone
    with pytest.raises(ValueError, match="leaves no window"):
        _sampler(size=2)


def _replay(other: Path, **changes: Any) -> dict[str, Any]:
    return {"replay": [{"path": str(other), "weight": 0.25, "cameras": {"front": "top"}} | changes]}


def test_a_run_with_replay_resumes_exactly(data: Path, other: Path, tmp_path: Path) -> None:
    def config(name: str, **changes: Any) -> Any:
        values = {"path": str(data), "validation_fraction": 0.25} | _replay(other)
        return toy_config(data, tmp_path / name, data=values, steps=8, save_every=2, **changes)

    whole = train(config("whole"))
    train(config("parts", max_minutes=1e-9))
    again = train(config("parts"), resume=True)
    losses = [
        [json.loads(x)["loss"] for x in (r.out / "metrics.jsonl").read_text().splitlines()]
        for r in (whole, again)
    ]
    assert losses[0] == losses[1]
    plain = train(toy_config(data, tmp_path / "plain", steps=1))
    assert plain.metrics["loss"] != losses[0][0]
    # normalisation knows a quarter of the other state: y of 0 to 9
    assert whole.policy.state_mean[1] > plain.policy.state_mean[1] + 0.9


def test_data_that_does_not_fit_is_refused(data: Path, other: Path, tmp_path: Path) -> None:
    def problem(folder: Path, **changes: Any) -> str:
        values = {"path": str(data)} | _replay(folder, **changes)
        with pytest.raises(ConfigError) as caught:
            train(toy_config(data, tmp_path / "run", data=values))
        return str(caught.value)

    text = problem(other, cameras={})
    assert "data.replay.0: cameras:" in text
    assert "has no camera 'front' for the policy's 'front'; name one of: top, unused" in text
    assert "looks through no camera 'side'; it has: front" in problem(
        other, cameras={"front": "top", "side": "top"}
    )
    assert "has the actions ['dx', 'dz'], the policy says ['dx', 'dy']" in problem(
        write_other(tmp_path / "a", actions=("dx", "dz"))
    )
    assert "has actions between (-2.0, -2.0)" in problem(write_other(tmp_path / "b", low=-2.0))
    assert "leave" in problem(other, weight=0.95)
    entry = {"path": str(other), "weight": 0.6}
    with pytest.raises(ValueError, match=r"weights add up to 1\.2"):
        toy_config(data, tmp_path / "run", data={"path": str(data), "replay": [entry, entry]})


def test_task_weights_by_instruction_and_pattern(data: Path, tmp_path: Path) -> None:
    from vla.training.objectives.bc import BC
    from vla.training.run_data.drawing import window_weights

    windows = Windows(EpisodeDataset(data), history=1, chunk=1)
    left = windows.task_index == windows.instructions.index("go left")

    def weights(**tasks: float) -> np.ndarray | None:
        values = {"path": str(data), "task_weights": tasks}
        return window_weights(toy_config(data, tmp_path, data=values).data, windows, BC())

    assert weights() is None
    found = weights(**{"go left": 3.0})
    assert found is not None
    assert set(found[left]) == {3.0}
    assert set(found[~left]) == {1.0}
    found = weights(**{"go*": 0.5, "go r*": 4.0})
    assert found is not None
    assert (set(found[left]), set(found[~left])) == ({0.5}, {4.0})
    with pytest.raises(ConfigError, match=r"data\.task_weights: leave nothing"):
        weights(**{"go*": 0.0})
    with pytest.raises(
        ConfigError, match=r"data\.task_weights: 'go up' matches nothing; .*'go left'"
    ):
        train(
            toy_config(
                data, tmp_path / "run", data={"path": str(data), "task_weights": {"go up": 2.0}}
            )
        )
