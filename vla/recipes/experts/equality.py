"""Whether an exported policy acts as the actor that it was made from.

N states, S state dimensions, A action dimensions.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float

from vla.models.heads.categorical import CategoricalActions
from vla.models.policies.mlp import MLPPolicy
from vla.recipes.experts.actions import Actions, GridActions
from vla.recipes.experts.actors import ExpertError
from vla.recipes.experts.scaling import state_scale
from vla.types import Observation

TOLERANCE = 1e-5
"""Of actions, in units of half their range; of values, of the greatest one."""


def check_equal(
    model: Any,
    policy: MLPPolicy,
    actions: Actions,
    states: Float[np.ndarray, "N S"],
) -> float:
    """The greatest difference between the deterministic actions of both, in units of half the
    range.

    Of values of a grid it is 0: the same action is chosen in all states, or two whose values
    differ by no more than rounding.

    Args:
        model: of stable-baselines3 or sb3-contrib.
        policy: made from it by `policy_of`.
        actions: what the model's actions mean.
        states: robot units.

    Raises ExpertError if they differ by more than `TOLERANCE`: such a policy is not to be saved.
    """
    scale = state_scale(model)
    observed = states if scale is None else (states - scale[0]) / scale[1]
    # `predict` takes states that are scaled already: scaling belongs to the env there
    chosen, _ = model.predict(observed, deterministic=True)
    expected_NA = actions.to_robot(chosen)
    observation = Observation.from_numpy({}, states, [""] * len(states))
    acted, _ = policy.act(observation)
    acted_NA = acted[:, 0].numpy()
    half_A = (np.asarray(policy.spec.action_high) - np.asarray(policy.spec.action_low)) / 2
    difference_N = np.abs((acted_NA - expected_NA) / half_A).max(1)
    if isinstance(actions, GridActions):
        tied_N = _tied(policy, states, expected_NA)
        difference_N = np.where(tied_N, 0.0, difference_N)
    worst = float(difference_N.max())
    if not worst <= TOLERANCE:
        raise ExpertError(
            f"the exported policy differs from the trained actor by {worst:.2g} of half the range "
            f"in one of {len(states)} states, at most {TOLERANCE:g} is allowed; it is not saved. "
            "Very large states or weights round so: set normalise_states=true"
        )
    return worst


def _tied(
    policy: MLPPolicy,
    states: Float[np.ndarray, "N S"],
    expected_NA: Float[np.ndarray, "N A"],
) -> np.ndarray:
    """Where the expected action has the policy's greatest value, but for rounding."""
    observation = Observation.from_numpy({}, states, [""] * len(states))
    with torch.no_grad():
        output, _ = policy.step(observation, None)
    values_NC = cast(CategoricalActions, output.actions).logits[:, 0, 0]
    ids_N1 = policy.tokenizer.encode(torch.from_numpy(expected_NA)[:, None])
    expected_N = values_NC.gather(1, ids_N1)[:, 0]
    # values have the size of returns, so their rounding has it, too
    largest_N = values_NC.abs().max(1).values
    tied_N = values_NC.max(1).values - expected_N <= TOLERANCE * largest_N
    return np.asarray(tied_N.numpy())


__all__ = ["TOLERANCE", "check_equal"]
