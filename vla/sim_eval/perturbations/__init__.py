"""Perturbations of episodes by kind and severity; `envs/perturbed.py` puts them around any env."""

from vla.sim_eval.perturbations import language, scene, sensors, timing
from vla.sim_eval.perturbations.base import (
    KINDS,
    SEVERITIES,
    Episode,
    Perturbation,
    describe,
    kind_named,
    level_of,
    missing,
    unfit,
)

GRADED = (
    *(
        "light",
        "camera",
        "colours",
        "distractors",
        "noise",
        "blur",
        "action_delay",
        "observation_delay",
    ),
    *("mass", "friction", "initial_pose", "paraphrase"),
)
"""Kinds with severities, in the order of reports."""
CONTROLS = ("wrong_instruction", "empty_instruction", "blank_image", "frozen_state")
"""Kinds without: they tell what a policy pays heed to."""

__all__ = [
    "CONTROLS",
    "GRADED",
    "KINDS",
    "SEVERITIES",
    "Episode",
    "Perturbation",
    "describe",
    "kind_named",
    "language",
    "level_of",
    "missing",
    "scene",
    "sensors",
    "timing",
    "unfit",
]
