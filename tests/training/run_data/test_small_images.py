"""Runs hold frames at the size that the policy sees, learn the same from them, and act on whole images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mixed_robots_toy
import numpy as np
import pytest
import torch

from vla.data import DatasetWriter, Episode, EpisodeDataset
from vla.models import RT1Config, load_policy
from vla.training import TrainConfig, train
from vla.training.config import DataConfig
from vla.training.objectives.bc import BCConfig
from vla.training.offline_evaluation.fitted_q_evaluation import FQEConfig, fqe
from vla.training.run_data import windows as run_windows
from vla.training.run_data.drawing import BatchPlan
from vla.training.run_data.opening import RunData, open_data, open_sources
from vla.training.run_data.windows import at_size_seen, sizes_seen
from vla.types import ImageSize, Observation, Spec, resized

SIZE = (32, 32)
POLICY: dict[str, Any] = {
    "type": "rt1",
    "trunk": "test_efficientnet",
    "stride": 16,
    "image_size": SIZE,
    "cameras": ["front"],
    "history": 2,
    "chunk": 1,
    "width": 16,
    "depth": 1,
    "heads": 2,
    "key_dim": 8,
    "language_dim": 16,
    "tokens_per_image": 2,
}


def write(root: Path, front: tuple[int, int], *, episodes: int = 4, seed: int = 0) -> Path:
    spec = Spec({"front": front, "wrist": (80, 80)}, ("x",), ("dx",), (-1.0,), (1.0,), 10.0)
    rng = np.random.default_rng(seed)
    L = 6
    with DatasetWriter(root, spec) as writer:
        for episode in range(episodes):
            images = {}
            for camera, size in spec.cameras.items():
                coarse = rng.integers(0, 256, (L, 6, 6, 3), np.uint8)
                images[camera] = resized(torch.from_numpy(coarse), size).numpy()
            side = 1.0 if episode % 2 else -1.0
            done = (np.arange(L) == L - 1) & (episode != 1)
            writer.add_episode(
                Episode(
                    images,
                    rng.normal(size=(L, 1)).astype(np.float32),
                    np.full((L, 1), 0.5 * side, np.float32),
                    done.astype(np.float32),
                    done,
                    True,
                    "go right" if side > 0 else "go left",
                )
            )
    return root


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("large") / "data", (120, 160))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of another size, smaller than what the policy sees in one direction."""
    return write(tmp_path_factory.mktemp("other") / "data", (24, 90), seed=1)


def opened(data: dict[str, Any], policy: dict[str, Any] = POLICY) -> RunData:
    config = DataConfig.model_validate(data)
    built = RT1Config.model_validate(policy)
    sources = open_sources(config, built, BCConfig())
    assert sources.policy is not None
    network = sources.policy.new(sources.spec, from_checkpoint=False)
    plan = BatchPlan(4, 1, seed=0)
    return open_data(config, plan, sources, network, BCConfig().build(network))


def losses(out: Path) -> list[tuple[float, float]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [(line["loss"], line["validation/loss"]) for line in lines]


def trained(data: Path, out: Path) -> Path:
    values = {
        "out": str(out),
        "data": {"path": str(data), "validation_fraction": 0.25},
        "policy": POLICY,
        "optim": {"lr": 1e-3, "warmup_steps": 1},
        "batch_size": 4,
        "steps": 2,
        "log_every": 1,
        "validate_every": 1,
        "save_every": None,
    }
    train(TrainConfig.model_validate(values))
    return out


def test_losses_are_those_of_whole_images(large: Path, tmp_path: Path, monkeypatch: Any) -> None:
    small = trained(large, tmp_path / "small")
    with monkeypatch.context() as patch:
        patch.setattr(run_windows, "at_size_seen", lambda dataset, seen: dataset)
        whole = trained(large, tmp_path / "whole")
    # in training both are resized, then shifted; only validation resizes without rounding
    for (loss, score), (whole_loss, whole_score) in zip(losses(small), losses(whole), strict=True):
        assert loss == whole_loss
        assert score == pytest.approx(whole_score, rel=1e-3)
    # control gives images of the camera's size, which the policy resizes itself
    policy = load_policy(small / "policy")
    assert policy.spec.cameras["front"] == (120, 160)
    images = {camera: np.zeros((*size, 3)) for camera, size in policy.spec.cameras.items()}
    images = {camera: image.astype(np.uint8) for camera, image in images.items()}
    actions, _ = policy.act(Observation.from_numpy(images, np.zeros(1), "go left"))
    assert actions.shape == (1, 1, 1)


@pytest.mark.parametrize("cache", ["ram", "disk", "stream"])
def test_what_is_not_seen_is_not_held(large: Path, cache: str) -> None:
    data = opened({"path": str(large), "validation_fraction": 0.25, "cache": cache})
    for windows in (data.windows.sources[""], data.held_out[""]):
        images = windows.batch(np.arange(3)).images
        # not the other camera, either
        assert {camera: image.shape for camera, image in images.items()} == {
            "front": (3, 2, *SIZE, 3)
        }


def test_images_are_never_made_larger(other: Path) -> None:
    data = opened({"path": str(other)}, {**POLICY, "image_size": (64, 64)})
    image = data.windows.sources[""].batch(np.arange(2)).images["front"]
    assert image.shape == (2, 2, 24, 90, 3)


def test_replayed_data_come_at_the_same_size(large: Path, other: Path) -> None:
    replay = [{"path": str(other), "weight": 0.5}]
    data = opened({"path": str(large), "replay": replay})
    batch = data.windows.sources[""].batch(data.order.indices(0))
    assert batch.images["front"].shape == (4, 2, *SIZE, 3)
    # a camera in place of another, whose own size is none that the policy sees
    replay = [{"path": str(large), "weight": 0.5, "cameras": {"front": "wrist"}}]
    data = opened({"path": str(other), "replay": replay}, {**POLICY, "image_size": (64, 64)})
    mixture: Any = data.windows.sources[""]
    assert mixture.further[0].windows.spec.cameras["wrist"] == (64, 64)
    assert mixture.batch(data.order.indices(0)).images["front"].shape == (4, 2, 24, 90, 3)


def test_robots_of_several_sizes(tmp_path: Path) -> None:
    robots = {}
    for name, cameras in mixed_robots_toy.CAMERAS.items():
        path = mixed_robots_toy.write_robot(tmp_path / name, name)
        robots[name] = {"path": str(path), "cameras": cameras}
    policy = {**POLICY, "cameras": None, "image_size": (24, 24)}
    data = opened({"multi_robot": robots, "validation_fraction": 0.25}, policy)
    for name in robots:
        for windows in (data.windows.sources[name], data.held_out[name]):
            for image in windows.batch(np.arange(2)).images.values():
                assert image.shape[2:4] == (24, 24)


def test_a_camera_that_is_seen_at_two_sizes_stays_whole(large: Path) -> None:
    dataset = EpisodeDataset(large)
    small = RT1Config.model_validate(POLICY).build(dataset.spec)
    tiny = RT1Config.model_validate({**POLICY, "image_size": (16, 16)}).build(dataset.spec)
    assert at_size_seen(dataset, sizes_seen([small, small])).spec.cameras["front"] == SIZE
    for seen in ([*sizes_seen([small, tiny, small])], [*sizes_seen([small]), ("front", None)]):
        assert at_size_seen(dataset, seen).spec == dataset.spec
    enlarged = [("front", ImageSize(400, 400))]
    assert at_size_seen(dataset, enlarged).spec == dataset.spec


def test_fitted_q_evaluation_gives_policies_what_they_see(large: Path, tmp_path: Path) -> None:
    spec = EpisodeDataset(large).spec
    for name, size in (("a", SIZE), ("b", SIZE), ("c", (16, 16))):
        torch.manual_seed(0)
        policy = RT1Config.model_validate({**POLICY, "image_size": size}).build(spec)
        policy.fit(np.zeros((4, 1)), np.arange(4.0)[:, None], ["go left", "go right"])
        policy.save_pretrained(tmp_path / name)
    values = []
    for names in ("ab", "abc"):
        config = {
            "data": {"path": str(large)},
            "policies": [str(tmp_path / name) for name in names],
            "steps": 5,
            "batch_size": 8,
            "out": str(tmp_path / names),
        }
        found = fqe(FQEConfig.model_validate(config)).estimates
        values.append([estimate.value for estimate in found][:2])
    # held small or whole, the same policies choose the same
    assert values[0] == pytest.approx(values[1], abs=0.01)
