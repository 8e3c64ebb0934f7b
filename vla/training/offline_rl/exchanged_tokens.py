"""Chunks that differ from the data's in one token: all ids of one place, the others kept.

For critics of whole chunks (`vla.models.critics`), which give no value of a token by itself.

B windows, T steps, K actions per chunk, A action dimensions, D = K * A places, V ids.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from vla.models.heads.categorical import actions_of_ids, token_mask
from vla.tokenizers.base import ActionTokenizer


@dataclass(frozen=True)
class ExchangedTokens:
    """What stands at one place of each step's chunk.

    Attributes:
        chunks: (V, B, T, K, A), robot units: the data's chunk with each id at that place. Where the
            id is the data's own, the data's very chunk.
        own: (B, T), the id of the data.
        allowed: (B, T, V), which ids may stand there.
    """

    chunks: Float[Tensor, "V B T K A"]
    own: Int64[Tensor, "B T"]
    allowed: Bool[Tensor, "B T V"]


def one_token_per_dimension(tokenizer: ActionTokenizer) -> bool:
    """Whether each token says one dimension of one action, whatever the others say."""
    per_dimension = tokenizer.tokens_per_action == tokenizer.action_dim
    return per_dimension and tokenizer.grammar is None


def draw_places(
    action_mask: Bool[Tensor, "B T K"], tokenizer: ActionTokenizer
) -> Int64[Tensor, "B T"]:
    """A random place of each step, evenly among those of its valid actions."""
    valid_BTD = token_mask(action_mask, tokenizer)
    # padded steps have none: any place will do, for nothing is learned of them
    shares_BTD = valid_BTD.float() + (~valid_BTD.any(-1, keepdim=True)).float()
    return torch.multinomial(shares_BTD.flatten(0, 1), 1).view(action_mask.shape[:2])


def exchange(
    actions: Float[Tensor, "B T K A"], place: Int64[Tensor, "B T"], tokenizer: ActionTokenizer
) -> ExchangedTokens:
    """The data's chunks with every id at one place of each step.

    Args:
        actions: of the data, robot units; the other places keep them as they are, not rounded to
            their bins.
        place: of each step.
        tokenizer: with `one_token_per_dimension`.
    """
    V = tokenizer.vocab_size
    D = tokenizer.num_tokens
    device = actions.device
    place_BT1 = place.unsqueeze(-1)
    own_BT1 = tokenizer.encode(actions).gather(-1, place_BT1)
    values_BTV = actions_of_ids(tokenizer).to(device)[place]
    data_BTD = actions.flatten(-2)
    # Not the middle of its bin: the soft maximum must run over the very action whose Q it is
    # compared with, or it would have no bound.
    is_own_BTV = torch.arange(V, device=device) == own_BT1
    values_BTV = torch.where(is_own_BTV, data_BTD.gather(-1, place_BT1), values_BTV)
    is_place_BTD = torch.arange(D, device=device) == place_BT1
    chunks_VBTD = torch.where(is_place_BTD, values_BTV.movedim(-1, 0).unsqueeze(-1), data_BTD)
    allowed_BTV = torch.ones_like(is_own_BTV)
    if tokenizer.allowed_ids is not None:
        allowed_BTV = tokenizer.allowed_ids.to(device)[place]
    chunks_VBTKA = chunks_VBTD.unflatten(-1, actions.shape[-2:])
    return ExchangedTokens(chunks_VBTKA, own_BT1.squeeze(-1), allowed_BTV)


__all__ = ["ExchangedTokens", "draw_places", "exchange", "one_token_per_dimension"]
