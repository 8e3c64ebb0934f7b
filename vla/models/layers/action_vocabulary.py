"""Ids of a language model's vocabulary that mean actions, with their own embedding and output rows.

RT-2 (Brohan et al. 2023) writes action bins over tokens of a vision-language model's vocabulary;
OpenVLA (Kim et al. 2024) takes the last ones. Here such ids are emitted as ids: no action ever
becomes text. Their rows are kept apart from the base's matrices, so that a frozen base can learn
actions, an adapter can be stored alone, and the softmax of a robot prompt never includes a word.

N sequences, L tokens, V action ids, W width of the language model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from vla.config import UserError

Reserve = Literal["extend", "last", "unused"]
"""extend: new ids after all others. last: the last ordinary tokens of the text tokenizer. unused:
ids that are listed."""


class VocabularyError(UserError):
    """There are not enough free tokens, or text uses those that were reserved for actions."""


def reserve_ids(
    reserve: Reserve,
    count: int,
    tokenizer: Any,
    rows: int,
    listed: Sequence[int] = (),
) -> list[int]:
    """Which ids of the vocabulary mean action 0, 1, ... count - 1.

    Args:
        tokenizer: of transformers; its special and added tokens are never taken.
        rows: of the embedding matrix.
        listed: for "unused" the candidates, least used first.

    Raises:
        VocabularyError: fewer than `count` ids are free, or a listed one is not.
    """
    if reserve == "extend":
        # the matrix is often padded beyond the tokenizer, and sometimes the tokenizer is the longer
        first = max(rows, len(tokenizer))
        return list(range(first, first + count))
    taken = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    ordinary = min(rows, len(tokenizer))  # ids that have both a text and a row
    if reserve == "last":
        free = [i for i in range(ordinary) if i not in taken]
    else:
        free = list(dict.fromkeys(listed))  # each id once, in the order given
        bad = [i for i in free if i in taken or not 0 <= i < ordinary]
        if bad:
            raise VocabularyError(
                f"policy.unused_ids: {bad[0]} is a special token or none of the {ordinary} ids of "
                "the base's tokenizer; list ordinary ids that text hardly uses"
            )
    if len(free) < count:
        raise VocabularyError(
            f"policy.vocabulary: {reserve} finds {len(free)} free tokens, the action tokenizer "
            f"needs {count}; use vocabulary: extend, or an action tokenizer with fewer ids"
        )
    return free[-count:] if reserve == "last" else free[:count]


class ActionVocabulary(nn.Module):
    """Rows of the embedding and output matrices for action ids.

    Rows of ids that the base knows start as copies of its own; new ones start at the mean row, with
    noise of the rows' standard deviation.

    Args:
        ids: place of each action id in the vocabulary.
        embedding: the base's embedding matrix (rows, W).
        output: its output matrix, or None if it is the embedding matrix itself.
        scale: by which the base multiplies embeddings.
        softcap: by which the base caps its logits; None if it does not.
        read: whether action tokens are ever inputs, not only outputs; if not, they have no
            embeddings.
    """

    ids: Tensor

    def __init__(
        self,
        ids: Sequence[int],
        embedding: Tensor,
        output: Tensor | None,
        *,
        scale: float,
        softcap: float | None,
        read: bool = True,
    ) -> None:
        super().__init__()
        self.scale = scale
        self.softcap = softcap
        self.register_buffer("ids", torch.tensor(list(ids)))
        width = embedding.shape[1]
        # a base with tied matrices gets tied action rows: `input` serves as output too
        self.input = nn.Embedding(len(ids), width) if read or output is None else None
        self.output = None if output is None else nn.Linear(width, len(ids), bias=False)
        with torch.no_grad():
            if self.input is not None:
                self.input.weight.copy_(_rows(embedding, self.ids))
            if self.output is not None and output is not None:
                self.output.weight.copy_(_rows(output, self.ids))

    @property
    def size(self) -> int:
        return len(self.ids)

    def embed(self, ids: Int64[Tensor, "N n"]) -> Float[Tensor, "N n W"]:
        """Embeddings of action ids (0 .. V-1) as the language model's first layer expects them."""
        assert self.input is not None
        return self.input(ids) * self.scale

    def logits(self, hidden: Float[Tensor, "*N W"]) -> Float[Tensor, "*N V"]:
        """Logits of the action ids alone."""
        layer = self.output if self.output is not None else self.input
        assert layer is not None
        weight = layer.weight
        return self._capped(F.linear(hidden.to(weight.dtype), weight))

    def text_logits(
        self,
        hidden: Float[Tensor, "N L W"],
        head: nn.Module,
    ) -> Float[Tensor, "N L all"]:
        """Logits of the whole vocabulary, text and actions, by the base's output layer `head`."""
        logits = self._capped(head(hidden))
        actions = self.logits(hidden).to(logits.dtype)
        # ids that the base has are replaced in place; `extend` has put the others behind its own
        replaced = self.ids < logits.shape[-1]
        logits = logits.index_copy(-1, self.ids[replaced], actions[..., replaced])
        return torch.cat([logits, actions[..., ~replaced]], dim=-1)

    def overlay(
        self,
        input_ids: Int64[Tensor, "N L"],
    ) -> tuple[Bool[Tensor, "N L"], Float[Tensor, "n W"]] | None:
        """Where text holds reserved ids, and their embeddings in place of the base's; None without
        embeddings."""
        if self.input is None:
            return None
        mask_NL = torch.isin(input_ids, self.ids)
        index = (input_ids[mask_NL][:, None] == self.ids).int().argmax(-1)
        return mask_NL, self.embed(index[None])[0]

    def _capped(self, logits: Tensor) -> Tensor:
        if self.softcap is None:
            return logits
        return self.softcap * torch.tanh(logits / self.softcap)


def _rows(matrix: Tensor, ids: Tensor) -> Tensor:
    """Start of the rows of these ids, float32."""
    matrix = matrix.detach().float()  # statistics of bfloat16 rows are too coarse
    known = ids < len(matrix)
    rows = matrix.mean(0) + matrix.std() * torch.randn(len(ids), matrix.shape[1])
    rows[known] = matrix[ids[known]]
    return rows


__all__ = ["ActionVocabulary", "Reserve", "VocabularyError", "reserve_ids"]
