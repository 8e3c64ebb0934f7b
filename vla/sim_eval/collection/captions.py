"""Image-text pairs out of simulated scenes: pictures with questions that the simulator answers.

A scene is an episode of the scripted expert, stopped at a step drawn from its seed: things lie
where they begin, hang in the hand, or are where they shall be. Held-out scenes have the seeds of
evaluations, which no demonstration and no training scene has.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from vla.common.atomic import replace_folder
from vla.common.progress import ProgressCallback
from vla.config import Choice, ConfigError, ConfigPath, RootConfig
from vla.config.numbers import Seed
from vla.data.loading.image_text import METADATA_FILE
from vla.data.storage.image_files import encode_png
from vla.sim_eval.env import Caption, SimEnv
from vla.sim_eval.rollouts.seeding import Purpose, episode_seed

FOLDERS: dict[str, Purpose] = {"train": "collect", "held_out": "eval"}
"""Folder of pairs -> whose seeds its scenes have."""


class CaptionsConfig(RootConfig):
    """What `vla captions` does."""

    env: Annotated[Any, Choice("envs")]
    """The scenes and the pictures of them; the env must have words for them (tabletop)."""
    out: ConfigPath
    """Folder that gets `train/` and `held_out/`, each as `co_training.path` reads it."""
    camera: str = "front"
    """Camera whose pictures are written."""
    scenes: int = Field(default=500, ge=1)
    """Scenes to learn from, in turn of all tasks."""
    held_out_scenes: int = Field(default=100, ge=2)
    """Scenes to judge by."""
    questions_per_scene: int = Field(default=4, ge=1)
    """Questions about each scene, of kinds as different as there are."""
    at_start: float = Field(default=0.25, ge=0, le=1)
    """Share of the scenes that show an episode's start; the expert plays the others up to a step
    within the first half of the horizon."""
    seed: Seed = 0
    """Decides scenes and questions."""


@dataclass(frozen=True)
class Scene:
    """A picture, uint8 (H, W, 3), with its questions."""

    picture: np.ndarray
    captions: tuple[Caption, ...]


def write_captions(
    config: CaptionsConfig, *, progress: ProgressCallback | None = None
) -> dict[str, int]:
    """Writes both folders; they are there whole or not at all.

    Args:
        config: everything that decides the pairs.
        progress: is called with scenes done and scenes of all.

    Returns:
        Folder -> pairs in it.

    Raises:
        ConfigError: `config.out` is not empty, there is no such camera, or the env has no words for
            its scenes.
    """
    out = config.out
    if out.exists() and any(out.iterdir()):
        raise ConfigError([f"out: {out} is not empty; choose another folder, or delete it"])
    cameras = config.env.spec().cameras
    if config.camera not in cameras:
        raise ConfigError([f"camera: no {config.camera!r}; the env has {', '.join(cameras)}"])
    counts = {"train": config.scenes, "held_out": config.held_out_scenes}
    pairs = dict.fromkeys(FOLDERS, 0)

    def write(folder: Path) -> None:
        done = 0
        for name, purpose in FOLDERS.items():
            pairs_folder = _PairsFolder(folder / name)
            for scene in _scenes(config, purpose, counts[name]):
                pairs_folder.add(scene)
                done += 1
                if progress is not None:
                    progress(done, sum(counts.values()))
            pairs[name] = pairs_folder.finish()

    replace_folder(out, write)
    return pairs


def _scenes(config: CaptionsConfig, purpose: Purpose, count: int) -> Iterator[Scene]:
    """Task by task, since an env costs more to build than a scene."""
    tasks = config.env.suite().tasks
    for number, task in enumerate(tasks):
        episodes = len(range(number, count, len(tasks)))
        if not episodes:
            continue
        env = config.env.make(task.name)
        try:
            for episode in range(episodes):
                yield _scene(env, config, episode_seed(purpose, config.seed, task.name, episode))
        finally:
            env.close()


def _scene(env: SimEnv, config: CaptionsConfig, seed: int) -> Scene:
    # a stream of its own: those of (seed) and (seed, 1) to (seed, 4) have other purposes
    rng = np.random.default_rng((seed, 5))
    at_start = rng.random() < config.at_start
    steps = 0 if at_start else int(rng.integers(1, max(2, env.task.horizon // 2)))
    env.render_images = False
    env.reset(seed=seed)
    for _ in range(steps):
        _, _, terminated, truncated, info = env.step(env.expert_action())
        if info["success"] or terminated or truncated:
            break
    env.render_images = True
    captions = env.captions(rng)
    if not captions:
        raise ConfigError(
            [f"env: {env.task.name} has no words for its scenes; use an env that has: tabletop"]
        )
    picture = env.observe()["images"][config.camera]
    return Scene(picture, _chosen(captions, config.questions_per_scene, rng))


def _chosen(
    captions: tuple[Caption, ...], count: int, rng: np.random.Generator
) -> tuple[Caption, ...]:
    """Of each kind one before any kind comes twice."""
    shuffled = [captions[i] for i in rng.permutation(len(captions))]
    turns: dict[str, int] = {}
    ranked = []
    for place, caption in enumerate(shuffled):
        turn = turns.get(caption.kind, 0)
        turns[caption.kind] = turn + 1
        ranked.append((turn, place, caption))
    ranked.sort(key=lambda item: item[:2])
    return tuple(caption for _, _, caption in ranked[:count])


class _PairsFolder:
    """Pictures and their lines of metadata, in the image-folder form of the hub."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._scenes = 0
        self._lines: list[str] = []

    def add(self, scene: Scene) -> None:
        name = f"{self._scenes:06d}.png"
        self._scenes += 1
        (self._folder / name).write_bytes(encode_png(scene.picture))
        for caption in scene.captions:
            pair = {"file_name": name, "prompt": caption.question, "answer": caption.answer}
            self._lines.append(json.dumps({**pair, "kind": caption.kind}))

    def finish(self) -> int:
        """Returns the number of pairs."""
        (self._folder / METADATA_FILE).write_text("\n".join(self._lines) + "\n")
        return len(self._lines)


__all__ = ["CaptionsConfig", "write_captions"]
