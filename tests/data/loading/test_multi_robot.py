"""Windows of different robots, gathered robot by robot, and the shares in which their datasets are drawn."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from vla.data import DatasetWriter, Episode, EpisodeDataset, Windows, WindowSampler
from vla.data.loading.interleaved_sampler import InterleavedSampler
from vla.data.loading.multi_robot import RobotWindows, dataset_shares, joint_spec
from vla.types import Batch, Spec


def robot(cameras: dict[str, tuple[int, int]], state: int, actions: int, hz: float = 10.0) -> Spec:
    return Spec(
        cameras=cameras,
        state_names=tuple(f"s{i}" for i in range(state)),
        action_names=tuple(f"a{i}" for i in range(actions)),
        action_low=tuple(-1.0 - i for i in range(actions)),
        action_high=(1.0,) * actions,
        control_hz=hz,
    )


ARM = robot({"front": (6, 8), "wrist": (4, 4)}, state=3, actions=2, hz=5.0)
HAND = robot({"ego": (10, 10)}, state=1, actions=5, hz=20.0)


def write(root: Path, spec: Spec, lengths: list[int], tasks: list[str]) -> EpisodeDataset:
    rng = np.random.default_rng(spec.action_dim)
    with DatasetWriter(root, spec) as writer:
        for number, length in enumerate(lengths):
            writer.add_episode(
                Episode(
                    images={
                        c: rng.integers(0, 256, (length, *hw, 3), dtype=np.uint8)
                        for c, hw in spec.cameras.items()
                    },
                    state=rng.normal(size=(length, spec.state_dim)).astype(np.float32),
                    actions=rng.uniform(-1, 1, (length, spec.action_dim)).astype(np.float32),
                    rewards=np.ones(length, np.float32),
                    success=np.ones(length, bool),
                    terminated=True,
                    instruction=tasks[number % len(tasks)],
                )
            )
    return EpisodeDataset(root)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Windows]:
    root = tmp_path_factory.mktemp("robots")
    hand = write(root / "hand", HAND, [4, 6], ["wave", "hold"])
    arm = write(root / "arm", ARM, [5, 2], ["push"])
    # the hand's windows come first in the row of numbers, the arm's micro-batch first in a step
    return {"hand": Windows(hand, history=2, chunk=3), "arm": Windows(arm, history=2, chunk=3)}


def assert_same(a: Batch, b: Batch) -> None:
    assert list(a.images) == list(b.images)
    assert a.instruction == b.instruction
    for name in (
        "state",
        "keyframe",
        "actions",
        "action_mask",
        "rewards",
        "success",
        "timesteps",
        "mask",
    ):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    for camera in a.images:
        assert torch.equal(a.images[camera], b.images[camera]), camera


def test_each_robots_windows_are_a_batch_of_their_own(sources: dict[str, Windows]) -> None:
    windows = RobotWindows(sources, robots=["arm", "hand"])
    assert len(windows) == 17
    assert (windows.history, windows.next_step) == (2, 0)
    batches = windows.batches(np.array([12, 3, 10, 9, 16]))
    assert [robot for robot, _ in batches] == ["arm", "hand"]
    for (robot, batch), own in zip(batches, ([2, 0, 6], [3, 9]), strict=True):
        assert_same(batch, sources[robot].batch(np.array(own)))
    arm, hand = (batch for _, batch in batches)
    # nothing is padded to the larger robot
    assert (arm.state.shape, arm.actions.shape) == ((3, 2, 3), (3, 2, 3, 2))
    assert (hand.state.shape, hand.actions.shape) == ((2, 2, 1), (2, 2, 3, 5))
    assert list(arm.images) == ["front", "wrist"]
    with pytest.raises(IndexError, match="0 to 16"):
        windows.batches(np.array([17]))


def test_rows_say_which_of_the_drawn_windows_are_whose(sources: dict[str, Windows]) -> None:
    windows = RobotWindows(sources)
    (only,) = windows.divide(np.array([4, 0]))
    assert only.robot == "hand"  # the arm has no window here, and no micro-batch
    hand, arm = windows.divide(np.array([12, 3, 10, 9, 16]))
    assert (hand.rows.tolist(), hand.indices.tolist()) == ([1, 3], [3, 9])
    assert (arm.rows.tolist(), arm.indices.tolist()) == ([0, 2, 4], [2, 0, 6])


def test_windows_of_one_robot_are_one_batch(sources: dict[str, Windows]) -> None:
    ((robot, batch),) = RobotWindows({"": sources["arm"]}).batches(np.array([1, 4]))
    assert robot == ""
    assert_same(batch, sources["arm"].batch(np.array([1, 4])))


def test_the_joint_spec_has_room_for_all() -> None:
    spec = joint_spec({"arm": ARM, "hand": HAND})
    assert spec.cameras == {"arm/front": (6, 8), "arm/wrist": (4, 4), "hand/ego": (10, 10)}
    assert (spec.state_dim, spec.action_dim, spec.control_hz) == (3, 5, 20.0)
    assert spec.action_low == (-1.0, -2.0, -3.0, -4.0, -5.0)


def test_shares_by_weight_and_temperature() -> None:
    assert dataset_shares([7, 9, 1], weights=[1, 0.5, 2.5]) == [
        Fraction(1, 4),
        Fraction(1, 8),
        Fraction(5, 8),
    ]
    assert dataset_shares([30, 10]) == [Fraction(3, 4), Fraction(1, 4)]
    # 100 ** (1/2) : 1 ** (1/2)
    assert [float(share) for share in dataset_shares([100, 1], temperature=2)] == pytest.approx(
        [10 / 11, 1 / 11]
    )
    assert [float(share) for share in dataset_shares([100, 1], temperature=1e9)] == pytest.approx(
        [0.5, 0.5], abs=1e-6
    )
    for shares in (
        dataset_shares([123, 45, 6], temperature=3.3),
        dataset_shares([1, 2], weights=[0.1, 0.7]),
    ):
        assert sum(shares) == 1


@pytest.mark.parametrize("world", [1, 2])
def test_sampling_honours_the_shares(world: int) -> None:
    sizes = [500, 60, 9]
    shares = dataset_shares(sizes, temperature=2)

    def sampler(rank: int) -> InterleavedSampler:
        samplers = [WindowSampler(n, batch_size=1, seed=seed) for seed, n in enumerate(sizes)]
        return InterleavedSampler(
            samplers, shares[1:], batch_size=8, seed=3, rank=rank, world_size=world
        )

    ranks = [sampler(rank) for rank in range(world)]
    steps = 300
    drawn = np.concatenate([one.indices(step) for step in range(steps) for one in ranks])
    counts = np.histogram(drawn, bins=[0, 500, 560, 569])[0]
    assert counts.tolist() == ranks[0].drawn(steps)
    for count, share in zip(counts, shares, strict=True):
        assert abs(count / len(drawn) - float(share)) < 0.01
    for done in (1, 17, 300):
        for count, share in list(zip(ranks[0].drawn(done), shares, strict=True))[1:]:
            assert 0 <= done * 8 * share - count < 1
    # the small dataset is gone through again and again, evenly
    assert np.ptp(np.bincount(drawn[drawn >= 560] - 560)) <= 1
