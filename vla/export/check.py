"""`vla export check`: an exported policy beside the policy itself, on recorded frames.

Episodes are gone through from their first step, so that what is remembered is compared too.
"""

from __future__ import annotations

import numpy as np

from vla.data import Episode, EpisodeDataset
from vla.export.agreement import Agreement, SideBySide
from vla.export.graph import ExportError
from vla.export.package import tokenizer_digest, weights_digest
from vla.export.runtime import ExportedPolicy
from vla.models.policy import Policy
from vla.types import Observation, SpecError

LEAST_STEPS = 500
"""Recorded frames that are compared, if the dataset has so many."""


def check_on_data(
    policy: Policy,
    exported: ExportedPolicy,
    dataset: EpisodeDataset,
    *,
    steps: int = LEAST_STEPS,
) -> Agreement:
    """Both act on recorded frames; whole episodes, until there are `steps` of them.

    Raises:
        ExportError: the folder was exported from another policy.
        SpecError: the dataset is not of the policy's robot.
        DataError: an episode cannot be read.
    """
    check_same(policy, exported)
    problems = policy.spec.differences(dataset.spec)
    if problems:
        raise SpecError(f"the dataset {dataset.name} does not fit the policy: {problems[0]}")
    found = Agreement()
    # drawn: the first episodes of a dataset are often of one task
    order = np.random.default_rng(0).permutation(dataset.num_episodes)
    for index in order:
        if found.steps >= steps:
            break
        _episode(SideBySide(policy, exported, found), dataset.episode(int(index)))
    return found


def check_same(policy: Policy, exported: ExportedPolicy) -> None:
    """Raises ExportError if the folder was exported from another policy."""
    description = exported.description
    for what, found, stored in (
        ("weights", weights_digest(policy), description.weights_sha256),
        ("tokenizer", tokenizer_digest(policy), description.tokenizer_sha256),
    ):
        if found != stored:
            raise ExportError(
                f"{exported.folder}: was exported from another policy: the {what} of "
                f"{policy.source} have SHA-256 {found[:12]}, expected {stored[:12]}; name the "
                "right one by --policy, or export this one: vla export onnx "
                f"{policy.source} {exported.folder}"
            )


def _episode(sides: SideBySide, episode: Episode) -> None:
    frames = {camera: episode.frames(camera) for camera in sides.policy.spec.cameras}
    for t, text in enumerate(episode.step_instructions):
        images = {camera: image_LHW3[t] for camera, image_LHW3 in frames.items()}
        sides.step(Observation.from_numpy(images, episode.state[t], text))


__all__ = ["LEAST_STEPS", "check_on_data", "check_same"]
