"""Perturbations of episodes by kind and severity; `envs/perturbed.py` puts them around any env."""

from vla.common import registry
from vla.sim_eval.perturbations.base import (
    SEVERITIES,
    Episode,
    Perturbation,
    describe,
    kind_named,
    level_of,
    missing,
    unfit,
)

# Literals, not what is registered: results and tables of earlier versions keep their
# order when a file is added.
GRADED = (
    "light",
    "camera",
    "colours",
    "distractors",
    "noise",
    "blur",
    "action_delay",
    "observation_delay",
    "mass",
    "friction",
    "initial_pose",
    "paraphrase",
)
"""Kinds with severities, in the order of reports."""
CONTROLS = ("wrong_instruction", "empty_instruction", "blank_image", "frozen_state")
"""Kinds without: they show which of its inputs a policy uses."""


def all_kinds() -> tuple[str, ...]:
    """Every kind in the order in which they run and are reported: `GRADED`, `CONTROLS`, then
    those of plug-ins by name."""
    ours = (*GRADED, *CONTROLS)
    return ours + tuple(name for name in registry.names("perturbations") if name not in ours)


__all__ = [
    "CONTROLS",
    "GRADED",
    "SEVERITIES",
    "Episode",
    "Perturbation",
    "all_kinds",
    "describe",
    "kind_named",
    "level_of",
    "missing",
    "unfit",
]
