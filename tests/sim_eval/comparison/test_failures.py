"""Kinds of failure: their order, their counts, and that each kind is filmed whoever plays how many at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from point_env import PointConfig

from vla.sim_eval import EvalConfig, Results, evaluate
from vla.sim_eval.comparison.failures import (
    failure_counts,
    failure_labels,
    failure_steps,
    representatives,
)
from vla.sim_eval.rollouts.jobs import EpisodeRecord
from vla.sim_eval.rollouts.video import VideoWriter, read_video
from vla.types import Observation


def record(task: str, episode: int, failure: str, step: int = 5) -> EpisodeRecord:
    return EpisodeRecord(
        task,
        "",
        episode,
        0,
        "",
        not failure,
        not failure,
        9,
        0.0,
        failure,
        "",
        step if failure else -1,
    )


RECORDS = [
    record("lift", 3, "dropped", 8),
    record("lift", 0, "no grasp", 2),
    record("lift", 1, "dropped", 4),
    record("lift", 2, ""),
    record("push", 0, "fell asleep"),
    record("push", 1, "dropped"),
    record("push", 2, "dropped", -1),
    record("wait", 0, ""),
]


def test_kinds_come_in_the_order_in_which_episodes_go_wrong() -> None:
    assert failure_labels(RECORDS) == ["no grasp", "dropped", "fell asleep"]
    assert failure_labels(RECORDS[3:4]) == []


def test_kinds_are_counted_by_task() -> None:
    counts = failure_counts(RECORDS)
    assert {task: dict(c) for task, c in counts.items()} == {
        "lift": {"dropped": 2, "no grasp": 1},
        "push": {"fell asleep": 1, "dropped": 2},
        "wait": {},
    }


def test_steps_fall_back_to_the_last_one() -> None:
    assert failure_steps(RECORDS) == {"no grasp": [2], "dropped": [4, 5, 8, 9], "fell asleep": [5]}


def test_the_first_of_each_kind_represents_it() -> None:
    first = {("lift", 0), ("lift", 1), ("push", 0), ("push", 1)}
    assert representatives(RECORDS, 1) == representatives(RECORDS[::-1], 1) == first
    assert representatives(RECORDS, 2) == first | {("lift", 3), ("push", 2)}
    assert representatives(RECORDS, 0) == set()


class Right:
    """Always goes to the right, where half of the targets are: it sometimes comes near, and sometimes arrives."""

    history = 1
    spec = PointConfig().spec()

    def act(self, observation: Observation, memory: None = None) -> tuple[torch.Tensor, None]:
        return torch.tensor([1.0, 0.0]).expand(observation.batch_size, 3, 2), None


def play(out: Path, **options) -> Results:
    values = {
        "env": {"type": "test_point", "horizon": 10},
        "episodes_per_task": 8,
        "videos_per_task": 0,
        **options,
    }
    return evaluate(Right(), EvalConfig(**values, out=str(out)), progress=False)


def files(result: Results) -> dict[str, bytes]:
    assert result.folder is not None
    return {path.name: path.read_bytes() for path in sorted((result.folder / "videos").glob("*"))}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return play(tmp_path_factory.mktemp("alone"), workers=0)


def test_each_kind_of_failure_is_filmed(alone: Results) -> None:
    assert alone.folder is not None
    filmed = {(r.task, r.failure) for r in alone.episodes if r.video}
    assert filmed == {(r.task, r.failure) for r in alone.episodes if not r.success_ever}
    assert len(filmed) >= 3, "the policy must fail in several ways for this test to say something"
    assert {r.video for r in alone.episodes if r.video} == {
        f"videos/{name}" for name in files(alone)
    }, "no surplus"
    for r in alone.episodes:
        if r.video:
            assert len(read_video(alone.folder / r.video)) == r.steps + 1


def test_workers_change_no_film(alone: Results, tmp_path: Path) -> None:
    spread = play(tmp_path, workers=2, num_envs=6, batch_size=2)
    assert [r.video for r in spread.episodes] == [r.video for r in alone.episodes]
    assert files(spread) == files(alone)


def test_films_of_chunks_show_what_the_policy_saw_at_the_right_pace(
    alone: Results, tmp_path: Path
) -> None:
    import av

    chunks = play(tmp_path, workers=0, replan_every=3, failure_videos=2)
    assert (
        max(
            sum(r.task == t and r.failure == f for r in chunks.episodes if r.video)
            for t, f in kinds(chunks)
        )
        == 2
    )
    r = next(r for r in chunks.episodes if r.video and r.steps == 10)
    with av.open(str(tmp_path / r.video)) as film:
        times = [float(frame.time) for frame in film.decode(video=0)]
    assert times == pytest.approx([0.0, 0.3, 0.6, 0.9, 1.0]), (
        "steps 0, 3, 6, 9 of 10 Hz, and the end"
    )


def kinds(result: Results) -> set[tuple[str, str]]:
    return {(r.task, r.failure) for r in result.episodes if not r.success_ever}


def test_nothing_is_filmed_unasked(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "red-001.mp4").write_bytes(b"of an earlier evaluation")
    result = play(tmp_path, workers=0, failure_videos=0, episodes_per_task=2)
    assert not any(r.video for r in result.episodes)
    assert files(result) == {}


def test_films_keep_to_their_memory(tmp_path: Path) -> None:
    frames = [np.full((32, 32, 3), 5 * i, np.uint8) for i in range(41)]
    writer = VideoWriter(tmp_path / "a.mp4", 10, max_bytes=10 * frames[0].nbytes)
    for i, frame in enumerate(frames):
        writer.add(frame, i)
        assert len(writer._frames) <= 10
    assert writer.last_step == 40
    writer.close()
    shown = read_video(tmp_path / "a.mp4")[:, 0, 0, 0].astype(int)
    assert 5 <= len(shown) <= 11
    assert shown[0] < 5
    assert abs(int(shown[-1]) - 200) < 8, "the end is always there"
    with pytest.raises(ValueError, match="at least one frame"):
        VideoWriter(tmp_path / "b.mp4", 10).close()
