"""What an env's expert would do in the states that a policy visits, as labels to imitate.

L: steps of an episode, A: action dimensions.
"""

from __future__ import annotations

import numpy as np

from vla.config import UserError
from vla.sim_eval.env import SimEnv
from vla.sim_eval.mujoco.preserved import preserved


def expert_label(env: SimEnv) -> np.ndarray:
    """What the expert would do in the present state, float32 (A,) within the spec's bounds.

    Raises UserError if there is no expert, or if its answers depend on its own past.
    """
    task, spec = env.task.name, env.robot_spec
    if env.expert_has_memory:
        raise UserError(
            f"task {task!r}: its expert depends on its own past, and cannot correct a policy; "
            "choose other tasks, or record what is executed (vla collect: actions=executed)"
        )
    try:
        action = env.expert_action()
    except RuntimeError as error:
        raise UserError(
            f"task {task!r}: its expert cannot act ({error}); choose an env with an expert, or "
            "record what is executed (vla collect: actions=executed)"
        ) from error
    return np.clip(action, spec.action_low, spec.action_high).astype(np.float32)


def expert_chunk(env: SimEnv, first: np.ndarray, length: int) -> tuple[np.ndarray, int]:
    """What the expert would do from the present state on: float32 (length, A), and how many of them
    are its own.

    It plays ahead, and the env is then as it was, to the bit. Where an episode ends before, its
    last action is repeated.

    Args:
        env: that tells its `changing_parts`.
        first: the expert's action in the present state (A,).

    Raises what `expert_label` and `preserved` raise.
    """
    actions = [first]
    with preserved(env):
        env.render_images = False  # the expert knows the state: nobody looks
        while len(actions) < length:
            _, _, terminated, truncated, _ = env.step(actions[-1])
            if terminated or truncated:
                break
            actions.append(expert_label(env))
    own = len(actions)
    actions += actions[-1:] * (length - own)
    return np.stack(actions), own


def valid_actions(followed: np.ndarray) -> np.ndarray:
    """Of the chunk of labels that begins at each step, how many follow each other: int64 (L,), 1
    and more.

    The label of a later step answers the state that the executed actions have led to. It goes on
    from the label before it only where that label was executed itself.

    Args:
        followed: (L,), whether the label of the step is what was executed.
    """
    return 1 + run_lengths(followed)


def run_lengths(true: np.ndarray) -> np.ndarray:
    """int64 (L,): how many steps from each step on, itself included, are True in a row."""
    lengths = np.zeros(len(true), np.int64)
    following = 0
    for step in reversed(range(len(true))):
        following = following + 1 if true[step] else 0
        lengths[step] = following
    return lengths


__all__ = ["expert_chunk", "expert_label", "run_lengths", "valid_actions"]
