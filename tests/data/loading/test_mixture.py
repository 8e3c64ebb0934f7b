"""Windows of different robots in one batch, and the shares in which their datasets are drawn."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from vla.data import DatasetWriter, Episode, EpisodeDataset, Windows, WindowSampler
from vla.data.loading.multi_robot import (
    MixedRobots,
    join_robots,
    joint_spec,
    mixture_shares,
    of_robot,
)
from vla.data.loading.replay_mixture import MixtureSampler, select_windows
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
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Windows]:
    root = tmp_path_factory.mktemp("robots")
    hand = write(root / "hand", HAND, [4, 6], ["wave", "hold"])
    arm = write(root / "arm", ARM, [5, 2], ["push"])
    # the robot of number 1 comes first in the row of windows
    return {1: Windows(hand, history=2, chunk=3), 0: Windows(arm, history=2, chunk=3)}


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


def test_windows_of_two_robots_are_padded_and_come_back_as_they_were(
    sources: dict[int, Windows],
) -> None:
    mixed = MixedRobots(sources)
    assert (len(mixed), mixed.sizes) == (17, [10, 7])
    batch = mixed.batch(np.array([12, 3, 10, 9, 16]))
    assert batch.robot is not None
    assert batch.robot.tolist() == [0, 1, 0, 1, 0]
    assert batch.instruction == ["push", "wave", "push", "hold", "push"]
    assert batch.task_index.tolist() == [2, 0, 2, 1, 2]
    assert batch.state.shape == (5, 2, 3)
    assert batch.actions.shape == (5, 2, 3, 5)
    assert not batch.actions[[0, 2, 4], ..., 2:].any()
    assert not batch.state[[1, 3], ..., 1:].any()
    # images hold their own robot's rows alone
    shapes = {name: tuple(image.shape) for name, image in batch.images.items()}
    assert shapes == {
        "1/ego": (2, 2, 10, 10, 3),
        "0/front": (3, 2, 6, 8, 3),
        "0/wrist": (3, 2, 4, 4, 3),
    }

    for number, spec, own in ((0, ARM, [2, 0, 6]), (1, HAND, [3, 9])):
        rows, part = of_robot(batch, number, state_dim=spec.state_dim, action_dim=spec.action_dim)
        assert rows.tolist() == [row for row in range(5) if batch.robot[row] == number]
        assert part is not None
        assert part.robot is None
        assert_same(part, sources[number].batch(np.array(own)))
    with pytest.raises(IndexError, match="0 to 16"):
        mixed.batch(np.array([17]))


def test_a_joined_batch_is_cut_as_any_other(sources: dict[int, Windows]) -> None:
    batch = MixedRobots(sources).batch(np.array([12, 3, 10, 9, 16]))
    chosen = select_windows(batch, np.array([4, 3, 0]))
    assert chosen.robot is not None
    assert chosen.robot.tolist() == [0, 1, 0]
    _, part = of_robot(chosen, 0, state_dim=3, action_dim=2)
    assert part is not None
    assert_same(part, sources[0].batch(np.array([6, 2])))
    rows, nobody = of_robot(select_windows(batch, np.array([0, 2])), 1, state_dim=1, action_dim=5)
    assert (len(rows), nobody) == (0, None)
    last = batch.steps(1, None)
    assert last.images["1/ego"].shape == (2, 1, 10, 10, 3)
    assert torch.equal(last.robot, batch.robot)
    assert torch.equal(batch.to("cpu").robot, batch.robot)
    with pytest.raises(ValueError, match="does not say which robot"):
        of_robot(sources[0].batch(np.array([0])), 0, state_dim=3, action_dim=2)


def test_one_robot_alone_is_not_padded(sources: dict[int, Windows]) -> None:
    part = sources[0].batch(np.array([1, 4]))
    joined = join_robots([(0, np.array([0, 1]), part)], state_dim=3, action_dim=2)
    assert_same(of_robot(joined, 0, state_dim=3, action_dim=2)[1] or joined, part)


def test_the_joint_spec_has_room_for_all() -> None:
    spec = joint_spec({"arm": ARM, "hand": HAND})
    assert spec.cameras == {"arm/front": (6, 8), "arm/wrist": (4, 4), "hand/ego": (10, 10)}
    assert (spec.state_dim, spec.action_dim, spec.control_hz) == (3, 5, 20.0)
    assert spec.action_low == (-1.0, -2.0, -3.0, -4.0, -5.0)


def test_shares_by_weight_and_temperature() -> None:
    assert mixture_shares([7, 9, 1], weights=[1, 0.5, 2.5]) == [
        Fraction(1, 4),
        Fraction(1, 8),
        Fraction(5, 8),
    ]
    assert mixture_shares([30, 10]) == [Fraction(3, 4), Fraction(1, 4)]
    # 100 ** (1/2) : 1 ** (1/2)
    assert [float(share) for share in mixture_shares([100, 1], temperature=2)] == pytest.approx(
        [10 / 11, 1 / 11]
    )
    assert [float(share) for share in mixture_shares([100, 1], temperature=1e9)] == pytest.approx(
        [0.5, 0.5], abs=1e-6
    )
    for shares in (
        mixture_shares([123, 45, 6], temperature=3.3),
        mixture_shares([1, 2], weights=[0.1, 0.7]),
    ):
        assert sum(shares) == 1


@pytest.mark.parametrize("world", [1, 2])
def test_sampling_honours_the_shares(world: int) -> None:
    sizes = [500, 60, 9]
    shares = mixture_shares(sizes, temperature=2)

    def sampler(rank: int) -> MixtureSampler:
        samplers = [WindowSampler(n, batch_size=1, seed=seed) for seed, n in enumerate(sizes)]
        return MixtureSampler(
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
