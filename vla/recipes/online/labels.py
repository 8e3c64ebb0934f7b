"""The second part of a round: the expert's answers take the place of what the policy did.

L: steps of an episode, K: actions per chunk.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from vla.data import Episode
from vla.data.extras import ACTION_CHUNK, INTERVENTION, VALID_ACTIONS
from vla.sim_eval.rollouts.episode_recorder import EXPERT_ACTION, EXPERT_CHUNK, EXPERT_STEPS
from vla.sim_eval.rollouts.expert_labels import run_lengths, valid_actions

WHOLE_CHUNK = 2**31 - 1
"""Of `valid_actions`, where all that follows may be learned."""


def labelled(episode: Episode, learn: Literal["all", "corrections"]) -> Episode:
    """The episode with the expert's actions to imitate.

    Where the expert was played ahead (`expert_chunk`), a step's chunk is what it did there. Else
    the expert's action at a later step answers the state that the policy has led to. It goes on
    from the label before it only where the expert's own action was executed: as far as that, and no
    further, are the labels of later steps part of a chunk (`valid_actions`).

    Args:
        episode: with the columns `expert_action` and `intervention`, and `expert_chunk` and
            `expert_steps` if it was played ahead.
        learn: "all" labels every step, "corrections" those at which the expert acted.
    """
    by_expert_L = np.asarray(episode.extras[INTERVENTION], dtype=bool)
    ahead = EXPERT_CHUNK in episode.extras
    valid_L = episode.extras[EXPERT_STEPS] if ahead else valid_actions(by_expert_L)
    if learn == "corrections":
        valid_L = np.where(by_expert_L, valid_L, 0)
    if learn == "corrections" and not ahead:
        # a step that is not labelled ends the chunk of labels before it
        valid_L = np.minimum(valid_L, run_lengths(by_expert_L))
    extras = {**episode.extras, VALID_ACTIONS: np.asarray(valid_L, dtype=np.int64)}
    if ahead:
        extras[ACTION_CHUNK] = np.asarray(episode.extras[EXPERT_CHUNK], dtype=np.float32)
    actions = np.asarray(episode.extras[EXPERT_ACTION], dtype=np.float32)
    return replace(episode, actions=actions, extras=extras)


def unlabelled(episode: Episode, chunk: int = 1) -> Episode:
    """A demonstration as it is, whose chunks may be learned as a whole.

    Args:
        chunk: K > 1 writes the actions that follow each step beside it, as for episodes in which
            the expert was played ahead.
    """
    L = len(episode)
    # recorded labels of a policy's states say themselves how far they go
    valid_L = episode.extras.get(VALID_ACTIONS, np.full(L, WHOLE_CHUNK, np.int64))
    extras = {**episode.extras, VALID_ACTIONS: valid_L}
    if chunk > 1 and ACTION_CHUNK not in extras:
        step_LK = np.arange(L)[:, None] + np.arange(chunk)
        actions_LKA = np.asarray(episode.actions, np.float32)[np.minimum(step_LK, L - 1)]
        extras[ACTION_CHUNK] = actions_LKA.reshape(L, -1)
        # the last action is repeated beyond the end, and not learned there
        extras[VALID_ACTIONS] = np.minimum(valid_L, L - np.arange(L))
    return replace(episode, extras=extras)


__all__ = ["WHOLE_CHUNK", "labelled", "unlabelled"]
