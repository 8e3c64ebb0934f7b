"""Actions that a robot could not execute are an error, not a number."""

from __future__ import annotations

import torch
from torch import Tensor

from vla.types.errors import ActionError
from vla.types.observation import Observation
from vla.types.spec import Spec


def check_finite(
    actions_BKA: Tensor, features_BF: Tensor, observation: Observation, spec: Spec
) -> None:
    """Raises ActionError if actions, or the features that they come from, are not all finite.

    Heads that choose the most likely token choose the first one if all are NaN: then features say
    it, and actions do not.
    """
    is_right = torch.isfinite(actions_BKA).all() & torch.isfinite(features_BF).all()
    # one number, so that a policy on a GPU is waited for once
    if bool(is_right):
        return
    wrong_B = ~torch.isfinite(actions_BKA).flatten(1).all(1)
    wrong_B |= ~torch.isfinite(features_BF).flatten(1).all(1)
    row = int(wrong_B.nonzero()[0])
    raise ActionError(
        f"act: NaN or infinity came out for robot {row} of {len(wrong_B)}"
        f"{_largest_state(observation.state[row], spec)}; no action was given: look at what the "
        "robot saw, and at the training's loss"
    )


def _largest_state(state_S: Tensor, spec: Spec) -> str:
    if not spec.state_dim:
        return ""
    place = int(state_S.abs().nan_to_num(nan=torch.inf).argmax())
    return f" (its greatest state is {spec.state_names[place]!r}, {float(state_S[place]):.3g})"


__all__ = ["ActionError", "check_finite"]
