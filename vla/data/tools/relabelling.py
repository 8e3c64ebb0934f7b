"""Hindsight relabelling (Andrychowicz et al. 2017): what failed at one thing shows how another is
done.

By instruction: a failed episode that fulfilled another instruction becomes a success at that. By
goal: parts of episodes become successes at what a later image shows, and the image joins the
observation as one more camera.

N: frames of the dataset, E: episodes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from vla.data.episode import Episode
from vla.data.errors import DataError
from vla.data.format import KeyMap
from vla.data.reader import EpisodeDataset
from vla.data.storage.image_codec import as_png
from vla.data.tools.plan import provenance, warnings_of
from vla.data.writer import DatasetWriter

GOAL_INSTRUCTION = "Bring about what the goal picture shows"
GOAL_CAMERA = "goal_"
"""The camera that holds the goal as `front` will see it is called `goal_front`."""
EPISODES_PER_COMMIT = 32

Achieved = Callable[[Episode], Mapping[str, int]]


@dataclass(frozen=True)
class Relabelled:
    """What was written: the dataset's folder, its episodes, how many have a new label, and what the
    user should know of the source."""

    root: Path
    episodes: int
    relabelled: int
    notes: tuple[str, ...] = ()


def achieved_of_info(episode: Episode) -> dict[str, int]:
    """What `vla collect` has noted of a failed episode: instruction -> the step after which it was
    first fulfilled."""
    # by the env's own judge (`SimEnv.achieved`), which looks at the state, whatever was asked
    noted = json.loads(str(episode.info.get("achieved", "{}")))
    return {str(text): int(step) for text, step in noted.items()}


def relabel_by_instruction(
    source: str | Path,
    out: str | Path,
    *,
    format: str | None = None,
    keys: KeyMap | None = None,
    achieved: Achieved = achieved_of_info,
    per_episode: int = 1,
    known_only: bool = True,
    keep: bool = True,
) -> Relabelled:
    """Writes a dataset in which failed episodes are also successes at what they did achieve.

    Such an episode ends, as a terminal and solved, when the instruction was fulfilled. Rewards are
    1 at solved steps, else 0, in the whole new dataset: what the recorded rewards would have been
    for another instruction, nobody knows.

    Args:
        source, out: folders.
        format, keys: as of EpisodeDataset.
        achieved: what a failed episode fulfilled: instruction -> the step after whose action it was
            first fulfilled. It sees the episode without its images.
        per_episode: at most this many labels for one episode; those that took longest first.
        known_only: only instructions that the dataset gives somewhere.
        keep: write the episodes under their own labels too.

    Raises:
        DataError: no failed episode achieved anything, a step is outside of its episode, or `out`
            holds a dataset.
    """
    dataset = EpisodeDataset(source, format=format, keys=keys)
    # without it every episode would count as failed
    dataset.require_recorded("success", "hindsight by instruction")
    known = set(dataset.instructions) if known_only else None
    labels: dict[int, list[tuple[int, str]]] = {}
    failed = np.flatnonzero(~dataset.episodes["success"].to_numpy(bool))
    for index in failed.tolist():
        episode = dataset.episode(index, images=False)
        found = []
        for text, step in achieved(episode).items():
            if known is not None and text not in known:
                continue
            if not 0 <= step < len(episode):
                raise DataError(
                    f"{source}: episode {dataset.episode_numbers[index]}: {text!r} is said to be "
                    f"achieved after step {step}; it has steps 0 to {len(episode) - 1}"
                )
            if text not in episode.step_instructions:
                found.append((step, text))
        # What took longest first: what is achieved at the start was not the robot's doing.
        found.sort(key=lambda label: (-label[0], label[1]))
        labels[index] = found[:per_episode]
    if not any(labels.values()):
        raise DataError(
            f"{source}: none of {len(labels)} failed episodes is known to have achieved another "
            f"instruction{' of the dataset' if known_only else ''}; collect with only_successes: "
            "false in an env that tells (tabletop), or give a function `achieved`"
        )

    def episodes() -> Iterator[Episode]:
        for index in range(len(dataset)):
            if not keep and not labels.get(index):
                continue
            episode = _read(dataset, index)
            # the same rewards for all: recorded ones beside made ones would tell the two apart
            episode = replace(episode, rewards=episode.success.astype(np.float32))
            if keep:
                yield episode
            for step, text in labels.get(index, ()):
                yield _part(episode, 0, step + 1, text, solved=True)

    made = {"by": "instruction", "per_episode": per_episode, "known_only": known_only, "keep": keep}
    return _write(dataset, out, dataset.spec.cameras, episodes(), made)


def draw_goals(
    lengths_E: np.ndarray,
    rng: np.random.Generator,
    *,
    probability: float = 1.0,
    discount: float | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """A goal frame for every frame: with `probability` a later one of the same episode ("future"),
    else one of another.

    Args:
        lengths_E: steps of each episode, int (E,), as `Windows.lengths`.
        rng: decides.
        probability: of a goal in the future. The last frame of an episode has none.
        discount: distances are geometric, 1 / (1 - discount) on average, and cut at the episode's
            end; None: even over the rest of the episode.

    Returns:
        Goals int64 (N,), and whether they lie in the future, bool (N,). A step that is not the last
        of its episode and whose goal is the next frame has reward 1 and is terminal. If no other
        episode exists, a frame without a future is its own goal.

    Raises:
        ValueError: the discount is outside [0, 1).
    """
    if discount is not None and not 0.0 <= discount < 1.0:
        raise ValueError(f"discount is {discount}; expected a number in [0, 1), or None")
    lengths = np.asarray(lengths_E, dtype=np.int64)
    N = int(lengths.sum())
    t_N = np.arange(N)
    end_N = np.repeat(np.cumsum(lengths), lengths)
    length_N = np.repeat(lengths, lengths)
    room_N = end_N - 1 - t_N  # frames that follow in the episode
    if discount is None:
        distance_N = 1 + np.floor(rng.random(N) * room_N).astype(np.int64)
    else:
        distance_N = rng.geometric(1.0 - discount, size=N)
    future_N = (rng.random(N) < probability) & (room_N > 0)
    # Counted on from this episode's end, around the dataset, so all frames of other episodes are
    # equally likely and none of this one is drawn.
    away_N = np.floor(rng.random(N) * (N - length_N)).astype(np.int64)
    other_N = np.where(length_N < N, (end_N + away_N) % N, t_N)
    later_N = t_N + np.minimum(distance_N, np.maximum(room_N, 1))
    return np.where(future_N, later_N, other_N), future_N


def relabel_by_goal(
    source: str | Path,
    out: str | Path,
    *,
    format: str | None = None,
    keys: KeyMap | None = None,
    cameras: Sequence[str] | None = None,
    per_episode: int = 4,
    probability: float = 1.0,
    discount: float | None = None,
    seed: int = 0,
    instruction: str = GOAL_INSTRUCTION,
) -> Relabelled:
    """Writes a dataset of parts of episodes, each with a goal image in additional cameras
    `goal_<camera>`.

    A part begins at a step drawn evenly. If its goal is a later frame of the same episode, its last
    action leads there: it is solved, rewarded with 1 and terminal. If the goal is a frame of
    another episode, the part goes on to the end of its episode, unsolved and truncated. A policy
    learns from it as from any data; whoever runs it shows it a goal in these cameras.

    Args:
        source, out: folders.
        format, keys: as of EpisodeDataset.
        cameras: those whose images are goals; all by default.
        per_episode: parts of each episode of two steps or more.
        probability, discount: of goals; see `draw_goals`.
        seed: decides starts and goals.
        instruction: of all parts, in words.

    Raises:
        DataError: a camera is unknown, the dataset has none, no episode has two steps, there is one
            episode and a probability below 1, or `out` holds a dataset.
        ValueError: the discount is outside [0, 1).
    """
    dataset = EpisodeDataset(source, format=format, keys=keys)
    spec = dataset.spec
    chosen = list(spec.cameras if cameras is None else cameras)
    unknown = [camera for camera in chosen if camera not in spec.cameras]
    if unknown or not chosen:
        has = ", ".join(spec.cameras) or "none"
        asked = unknown[0] if unknown else "none"
        raise DataError(
            f"{source}: a goal picture needs a camera; asked for: {asked}, the dataset has: {has}"
        )
    table = dataset.episodes
    lengths = table["length"].to_numpy(np.int64)
    firsts = table["first_frame"].to_numpy(np.int64)
    if lengths.max() < 2:
        raise DataError(
            f"{source}: no episode has two steps, so none has a goal; collect longer ones"
        )
    if probability < 1 and len(lengths) == 1:
        raise DataError(
            f"{source}: probability is {probability:g}, but there is no other episode to take "
            "goals from; set it to 1"
        )
    rng = np.random.default_rng(seed)
    # All draws beforehand: which frames are goals must not depend on the order of reading.
    draws = []
    for _ in range(per_episode):
        draws.append(draw_goals(lengths, rng, probability=probability, discount=discount))
    starts = rng.random((len(lengths), per_episode))

    def episodes() -> Iterator[Episode]:
        for index in np.flatnonzero(lengths >= 2).tolist():
            first = int(firsts[index])
            length = int(lengths[index])
            episode = _read(dataset, index)
            for (goal_N, future_N), drawn in zip(draws, starts[index], strict=True):
                start = int(drawn * (length - 1))
                goal = int(goal_N[first + start])
                solved = bool(future_N[first + start])
                stop = goal - first if solved else length
                part = _part(episode, start, stop, instruction, solved=solved)
                images = dict(part.images)
                for camera in chosen:
                    # the frame after the part's last action, or one of another episode
                    image = (
                        episode.images[camera][stop] if solved else _image(dataset, camera, goal)
                    )
                    images[GOAL_CAMERA + camera] = [image] * len(part)
                yield replace(part, images=images)

    made = {"by": "goal", "cameras": chosen, "per_episode": per_episode, "probability": probability}
    sizes = spec.cameras | {GOAL_CAMERA + camera: spec.cameras[camera] for camera in chosen}
    return _write(dataset, out, sizes, episodes(), made | {"discount": discount, "seed": seed})


def _image(dataset: EpisodeDataset, camera: str, frame: int) -> bytes:
    ((_, image),) = dataset.images(camera, frame, frame + 1)
    return as_png(image)


def _read(dataset: EpisodeDataset, index: int) -> Episode:
    """An episode with its images as the native format keeps them, and its origin."""
    episode = dataset.episode(index)
    images: dict[str, np.ndarray | list[bytes]] = {}
    for camera, stored in episode.images.items():
        images[camera] = [as_png(image) for image in stored]
    return replace(episode, images=images, info=provenance(dataset, index, episode))


def _part(
    episode: Episode,
    start: int,
    stop: int,
    instruction: str,
    *,
    solved: bool,
) -> Episode:
    """Steps [start, stop) under another label; solved at the last of them, or not at all."""
    success = np.zeros(stop - start, dtype=bool)
    success[-1] = solved
    # what the whole episode achieved is not true of a part
    info = {key: value for key, value in episode.info.items() if key != "achieved"}
    return Episode(
        images={camera: episode.images[camera][start:stop] for camera in episode.images},
        state=episode.state[start:stop],
        actions=episode.actions[start:stop],
        rewards=success.astype(np.float32),
        success=success,
        terminated=solved,
        instruction=instruction,
        info=info | {"relabelled_from": episode.instruction},
    )


def _write(
    dataset: EpisodeDataset,
    out: str | Path,
    cameras: dict[str, tuple[int, int]],
    episodes: Iterator[Episode],
    made: dict[str, Any],
) -> Relabelled:
    metadata = {"relabelled": made, "source": dataset.metadata}
    relabelled = 0
    with DatasetWriter(out, replace(dataset.spec, cameras=cameras), metadata=metadata) as writer:
        group = list(islice(episodes, EPISODES_PER_COMMIT))
        while group:
            writer.add_episodes(group)
            relabelled += sum("relabelled_from" in episode.info for episode in group)
            group = list(islice(episodes, EPISODES_PER_COMMIT))
        notes = tuple(warnings_of(dataset))
        return Relabelled(Path(out), writer.num_episodes, relabelled, notes)
