"""What the env shows and does, against the data and against what the policy expects.

S: state dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from vla.common.registry import register
from vla.data import EpisodeDataset
from vla.data.episode import read_info
from vla.data.storage.image_codec import as_frame
from vla.recipes.doctor.check import Symptom, examines
from vla.recipes.doctor.subject import Subject
from vla.sim_eval.env import SimEnv

_STARTS = 4
"""Episodes that are begun, and replayed."""
_FAR = 6.0
"""Deviations from the training mean beyond which a start is new to the policy."""
_CLOSER = 0.6
"""Share of its distance within which another order of colours or cameras fits better."""


@register("doctor_checks", "chunk")
@examines("how many actions of a chunk are executed, against what was learned", needs=("env",))
def chunk(subject: Subject) -> Iterator[Symptom]:
    """As many actions are executed as critics valued, and no more than there are."""
    evaluation = subject.evaluation
    assert evaluation is not None
    executed = evaluation.replan_every
    valued = subject.policy.executed_actions
    if executed > subject.policy.chunk:
        yield Symptom(
            "error",
            f"replan_every is {executed}, the policy gives {subject.policy.chunk} actions",
            f"set replan_every={subject.policy.chunk} or less",
        )
    elif valued is not None and executed != valued:
        yield Symptom(
            "warning",
            f"{executed} actions of a chunk are executed, the critics valued {valued}",
            f"set replan_every={valued}",
            {"executed": executed, "valued": valued},
        )


@register("doctor_checks", "starts")
@examines("first pictures and states of the env, against those of the data", needs=("env",))
def starts(subject: Subject) -> Iterator[Symptom]:
    """Episodes of the env begin as those of the data do."""
    assert subject.evaluation is not None
    config = subject.evaluation.env
    if subject.policy.spec.differences(config.spec()):
        return  # the check of specs says so
    seen = []
    for task in config.suite().tasks[:_STARTS]:
        env = config.make(task.name)
        try:
            seen.append(env.reset(seed=0)[0])
        finally:
            env.close()
    yield from _new_states(subject, np.stack([one["state"] for one in seen]))
    data = subject.training or subject.data
    if data is None:
        return
    for camera in subject.policy.spec.cameras:
        if camera not in data.spec.cameras:
            continue
        # first pictures alone: later ones hold what policy and expert did
        learned = _first_colours(data, camera)
        shown = np.mean([one["images"][camera].reshape(-1, 3).mean(0) for one in seen], axis=0)
        distance = float(np.abs(shown - learned).max())
        swapped = float(np.abs(shown[::-1] - learned).max())
        # levels of 255: light alone moves a mean colour by less
        if distance > 8 and swapped < _CLOSER * distance:
            yield Symptom(
                "error",
                f"camera {camera!r} of the env has red and blue swapped: its first pictures are "
                f"{_rounded(shown)} on average, those of the data {_rounded(learned)}",
                "give RGB pictures: image[..., ::-1] of what OpenCV gives",
            )
        elif distance > 40:
            yield Symptom(
                "warning",
                f"camera {camera!r} of the env looks different: its first pictures are "
                f"{_rounded(shown)} on average, those of the data {_rounded(learned)}",
                "compare both (`vla data view`): light, pose of the camera, or another camera",
            )


def _rounded(colour: np.ndarray) -> str:
    return "(" + ", ".join(f"{value:.0f}" for value in colour) + ")"


def _first_colours(dataset: EpisodeDataset, camera: str) -> np.ndarray:
    """Mean colour (3,) of the first pictures of some episodes."""
    firsts = dataset.reader.episodes["first_frame"].to_numpy()
    chosen = firsts[np.linspace(0, len(firsts) - 1, min(8, len(firsts))).astype(int)]
    colours = []
    for frame in chosen.tolist():
        ((_, stored),) = dataset.images(camera, frame, frame + 1)
        colours.append(as_frame(stored).reshape(-1, 3).mean(0))
    return np.asarray(np.mean(colours, axis=0))


def _new_states(subject: Subject, states_NS: np.ndarray) -> Iterator[Symptom]:
    """Starts that lie far from all that was learned."""
    policy = subject.policy
    scaled_NS = np.abs(states_NS - policy.state_mean.cpu().numpy()) / policy.state_std.cpu().numpy()
    far = np.flatnonzero((scaled_NS > _FAR).any(0))
    if len(far):
        listed = ", ".join(
            f"{policy.spec.state_names[dim]} ({states_NS[:, dim].mean():.3g}, learned "
            f"{float(policy.state_mean[dim]):.3g} \u00b1 {float(policy.state_std[dim]):.3g})"
            for dim in far[:4]
        )
        yield Symptom(
            "warning",
            f"episodes of the env begin in states that are new to the policy: {listed}",
            "look for another unit, order or frame of reference of the state",
            {"dimensions": [policy.spec.state_names[dim] for dim in far]},
        )


@register("doctor_checks", "replay")
@examines(
    "whether recorded actions solve the env that they were recorded in", needs=("env", "data")
)
def replay(subject: Subject) -> Iterator[Symptom]:
    """Played again from their own starts, recorded successes succeed."""
    dataset = subject.data
    assert dataset is not None
    assert subject.evaluation is not None
    config = subject.evaluation.env
    known = {task.name for task in config.suite().tasks}
    if config.spec().action_dim != dataset.spec.action_dim:
        return
    played: list[bool] = []
    errors: list[float] = []
    for index, info in _replayable(dataset, known):
        env = config.make(info["task"])
        try:
            solved, error = _replayed(env, dataset, index, int(info["seed"]))
        finally:
            env.close()
        played.append(solved)
        errors.append(error)
    if not played:
        subject.skipped["replay"] = (
            "no solved episode of the data says with which seed and task of this env it began"
        )
        return
    subject.measured["replayed"] = len(played)
    subject.measured["replayed_solved"] = sum(played)
    # half, not all: contacts make a few replays fail on another machine
    if sum(played) < len(played) / 2:
        first = f"; their first states differ by {max(errors):.3g}" if max(errors) > 1e-3 else ""
        yield Symptom(
            "error",
            f"{len(played) - sum(played)} of {len(played)} recorded successes fail when their "
            f"actions are played again in the env{first}: no policy that imitates them can succeed",
            "look for another version of the env, control rate, limits, or meaning of the actions",
            {"played": len(played), "solved": sum(played)},
        )


def _replayable(dataset: EpisodeDataset, tasks: set[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(episode, its info) of some solved episodes that the env can begin again."""
    found = 0
    for index, row in enumerate(dataset.episodes.itertuples()):
        info = read_info(row.info)
        # with noise in what the expert saw, labels may not be what was executed
        exact = not info.get("noisy_steps", 0)
        is_named = isinstance(info.get("task"), str) and isinstance(info.get("seed"), int)
        if row.success and exact and is_named and info["task"] in tasks:
            yield index, info
            found += 1
        if found == _STARTS:
            return


def _replayed(env: SimEnv, dataset: EpisodeDataset, index: int, seed: int) -> tuple[bool, float]:
    """Whether the recorded actions solve the env, and how far the first states are apart."""
    episode = dataset.episode(index, images=False)
    env.render_images = False  # nobody looks, and drawing costs more than physics
    observation, _ = env.reset(seed=seed)
    error = float(np.abs(observation["state"] - episode.state[0]).max(initial=0.0))
    for action in episode.actions:
        *_, info = env.step(action.astype(np.float32))
        if info["success"]:
            return True, error
    return False, error
