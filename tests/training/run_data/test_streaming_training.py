"""Training whose frames are streamed: as from memory, and the same again after an interruption."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_toy import ToyConfig, toy_config, write_dataset

from vla.data import EpisodeDataset
from vla.data.loading.multi_robot import RobotWindows
from vla.data.loading.streaming.stream_order import StreamOrder
from vla.data.loading.streaming.streamed_windows import StreamedWindows
from vla.training import train
from vla.training.objectives.bc import BCConfig
from vla.training.run_data.batches import step_batches
from vla.training.run_data.drawing import BatchPlan, build_order
from vla.training.run_data.windows import open_windows, read_windows

MEMORY = (
    24 * 3 * 32 * 32 * 3 / 2**30 / 0.875
)  # blocks of 24 frames, of the 72 of the training episodes


def streamed(data: Path, **changes: Any) -> dict[str, Any]:
    return {
        "path": str(data),
        "validation_fraction": 0.25,
        "cache": "stream",
        "stream_memory_gb": MEMORY,
    } | changes


def losses(out: Path) -> list[tuple[float, ...]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [
        (line["step"], line["loss"], line.get("validation/loss", -1.0))
        for line in lines
        if "loss" in line
    ]


def test_a_resumed_run_goes_on_with_the_same_losses(data: Path, tmp_path: Path) -> None:
    train(toy_config(data, tmp_path / "whole", data=streamed(data)))
    cut = toy_config(data, tmp_path / "cut", data=streamed(data))
    with pytest.raises(KeyboardInterrupt):
        train(cut.model_copy(update={"evaluate_every": 12}), evaluate=interrupt)
    assert losses(tmp_path / "cut")[-1][0] < 20
    train(cut, resume=True)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    weights = "policy/model.safetensors"
    assert (tmp_path / "cut" / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()


def interrupt(policy: object, step: int) -> dict[str, float]:
    raise KeyboardInterrupt


def test_held_out_scores_and_statistics_are_those_from_memory(data: Path, tmp_path: Path) -> None:
    """At step 0 of the learning rate nothing is learned, so that only the data could differ."""
    still = {
        "optim": {"lr": 1e-12},
        "steps": 1,
        "validate_every": 1,
        "policy": {"history": 2, "chunk": 2},
    }
    for name, source in (
        ("ram", {"path": str(data), "validation_fraction": 0.25}),
        ("stream", streamed(data)),
    ):
        train(toy_config(data, tmp_path / name, data=source, **still))
    ram, stream = (losses(tmp_path / name)[-1][2] for name in ("ram", "stream"))
    assert ram == pytest.approx(stream, rel=1e-6)


@pytest.mark.parametrize(
    "changes", [{}, {"episode_balance": True, "task_weights": {"go left": 3.0}}]
)
def test_two_processes_draw_what_the_config_asks_and_share_nothing(
    data: Path, changes: dict[str, Any]
) -> None:
    config = toy_config(data, Path("unused"), data=streamed(data, **changes))
    policy = ToyConfig(history=2, chunk=2).build(EpisodeDataset(data).spec)
    objective = BCConfig().build(policy)
    counts, epochs = np.zeros(2), []
    for rank in range(2):
        windows, held_out = open_windows(
            config.data, EpisodeDataset(data), policy, objective, seed=config.seed
        )
        assert isinstance(windows, StreamedWindows)
        assert held_out is not None
        assert len(held_out) == 24
        plan = BatchPlan(config.batch_size, 1, config.seed, rank=rank, world_size=2)
        order = build_order(config.data, plan, windows, objective)
        assert isinstance(order, StreamOrder)
        drawn = np.concatenate(
            [order.indices(step) for step in range(order.drawn_per_epoch // 4 * 20)]
        )
        epochs.append(set(drawn[: order.drawn_per_epoch].tolist()))
        counts += np.bincount(windows.task_index[drawn], minlength=2)
        windows.close()
    if not changes:
        assert not epochs[0] & epochs[1]
        assert len(epochs[0] | epochs[1]) == 72
    assert counts[0] / counts.sum() == pytest.approx(0.75 if changes else 0.5, abs=0.01)


def test_a_url_is_a_dataset(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLA_CACHE", str(tmp_path / "cache"))
    few = {"steps": 4, "validate_every": 4, "save_every": None}
    for name, path in (("local", str(data)), ("remote", f"file://{data}")):
        train(toy_config(data, tmp_path / name, data=streamed(data, path=path), **few))
    assert losses(tmp_path / "remote") == losses(tmp_path / "local")


def test_replay_streams_too(data: Path, tmp_path: Path) -> None:
    other = write_dataset(tmp_path / "other", episodes=4, seed=1)
    source = streamed(
        data, stream_memory_gb=2 * MEMORY, replay=[{"path": str(other), "weight": 0.25}]
    )
    result = train(
        toy_config(
            data, tmp_path / "run", data=source, steps=6, validate_every=None, save_every=None
        )
    )
    assert np.isfinite(result.metrics["loss"])


def test_batches_of_a_streamed_run_equal_those_of_the_same_windows_in_memory(data: Path) -> None:
    config = toy_config(data, Path("unused"), data=streamed(data))
    dataset = EpisodeDataset(data)
    policy = ToyConfig(history=2, chunk=2).build(dataset.spec)
    objective = BCConfig().build(policy)
    windows, _ = open_windows(config.data, dataset, policy, objective, seed=config.seed)
    plan = BatchPlan(config.batch_size, 2, config.seed)
    order = build_order(config.data, plan, windows, objective)
    in_memory = config.data.model_copy(update={"cache": "ram"})
    whole = read_windows(
        in_memory, dataset, policy, objective, cameras=["front"], episodes=windows.episodes
    )
    asked = [order.indices(step - 1) for step in range(1, 15)]
    of_one = RobotWindows({"": windows})
    loaded = step_batches(of_one, order, range(1, 15), micro_batches=2, device=torch.device("cpu"))
    for (_, parts), rows in zip(loaded, asked, strict=True):
        for (_, part), own in zip(parts, np.split(rows, 2), strict=True):
            expected = whole.batch(own)
            assert torch.equal(part.images["front"], expected.images["front"])
            assert torch.equal(part.actions, expected.actions)
