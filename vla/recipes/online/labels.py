"""The second part of a round: the expert's answers take the place of what the policy did.

L: steps of an episode, K: actions per chunk.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from vla.data import Episode
from vla.data.extras import INTERVENTION, VALID_ACTIONS
from vla.sim_eval.rollouts.episode_recorder import EXPERT_ACTION
from vla.sim_eval.rollouts.expert_labels import run_lengths, valid_actions

WHOLE_CHUNK = 2**31 - 1
"""Of `valid_actions`, where all that follows may be learned."""


def labelled(episode: Episode, learn: Literal["all", "corrections"]) -> Episode:
    """The episode with the expert's actions to imitate.

    The expert's action at a later step answers the state that the policy has led to. It goes on
    from the label before it only where the expert's own action was executed: as far as that, and no
    further, are the labels of later steps part of a chunk (`valid_actions`).

    Args:
        episode: with the columns `expert_action` and `intervention`.
        learn: "all" labels every step, "corrections" those at which the expert acted.
    """
    by_expert_L = np.asarray(episode.extras[INTERVENTION], dtype=bool)
    valid_L = valid_actions(by_expert_L)
    if learn == "corrections":
        valid_L = np.where(by_expert_L, valid_L, 0)
        # a step that is not labelled ends the chunk of labels before it
        valid_L = np.minimum(valid_L, run_lengths(by_expert_L))
    extras = {**episode.extras, VALID_ACTIONS: valid_L.astype(np.int64)}
    actions = np.asarray(episode.extras[EXPERT_ACTION], dtype=np.float32)
    return replace(episode, actions=actions, extras=extras)


def unlabelled(episode: Episode) -> Episode:
    """A demonstration as it is, whose chunks may be learned as a whole."""
    valid_L = np.full(len(episode), WHOLE_CHUNK, np.int64)
    return replace(episode, extras={**episode.extras, VALID_ACTIONS: valid_L})


__all__ = ["WHOLE_CHUNK", "labelled", "unlabelled"]
