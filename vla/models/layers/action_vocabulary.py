"""Ids of a language model's vocabulary that mean actions, with their own rows of the embedding and output matrices.

RT-2 (Brohan et al. 2023) writes action bins over tokens of a vision-language model's vocabulary; OpenVLA (Kim et al.
2024) takes the last ones. Here such ids are emitted as ids: no action ever becomes text. Their rows are kept apart from
the base's matrices, so that a frozen base can learn actions, and an adapter can be stored alone.

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
"""extend: new ids after all others. last: the last ids of the text tokenizer that are ordinary tokens. unused: listed."""


class VocabularyError(UserError):
    """There are not enough free tokens, or text uses those that were reserved for actions."""


def reserve_ids(
    reserve: Reserve, count: int, tokenizer: Any, rows: int, listed: Sequence[int] = (),
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
        first = max(rows, len(tokenizer))
        return list(range(first, first + count))
    taken = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    if reserve == "last":
        free = [i for i in range(min(rows, len(tokenizer))) if i not in taken]
    else:
        free = list(dict.fromkeys(listed))
        if bad := [i for i in free if i in taken or not 0 <= i < min(rows, len(tokenizer))]:
            raise VocabularyError(
                f"policy.unused_ids: {bad[0]} is a special token or none of the {min(rows, len(tokenizer))} ids of the "
                "base's tokenizer; list ordinary ids that text hardly uses"
            )
    if len(free) < count:
        raise VocabularyError(
            f"policy.vocabulary: {reserve} finds {len(free)} free tokens, the action tokenizer needs {count}; "
            "use vocabulary: extend, or an action tokenizer with fewer ids"
        )
    return free[-count:] if reserve == "last" else free[:count]


class ActionVocabulary(nn.Module):
    """Rows of the embedding and output matrices for action ids.

    Rows that the base has already start as copies of its own; new ones start at the mean row, with noise of the rows'
    spread.

    Args:
        ids: place of each action id in the vocabulary.
        embedding: the base's embedding matrix (rows, W).
        output: its output matrix, or None where it is the embedding matrix itself.
        scale: by which the base multiplies embeddings.
        softcap: by which the base caps its logits; None where it does not.
        read: whether action tokens are ever read, not only said; else there are no embeddings of them.
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
        self.scale, self.softcap = scale, softcap
        self.register_buffer("ids", torch.tensor(list(ids)))
        width = embedding.shape[1]
        self.input = nn.Embedding(len(ids), width) if read or output is None else None
        self.output = None if output is None else nn.Linear(width, len(ids), bias=False)
        with torch.no_grad():
            for layer, matrix in ((self.input, embedding), (self.output, output)):
                if layer is not None and matrix is not None:
                    layer.weight.copy_(_rows(matrix, self.ids))

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
        self, hidden: Float[Tensor, "N L W"], head: nn.Module,
    ) -> Float[Tensor, "N L all"]:
        """Logits of the whole vocabulary, text and actions, by the base's output layer `head`."""
        logits = self._capped(head(hidden))
        actions = self.logits(hidden).to(logits.dtype)
        rows = logits.shape[-1]
        replaced = self.ids < rows
        logits = logits.index_copy(-1, self.ids[replaced], actions[..., replaced])
        return torch.cat([logits, actions[..., ~replaced]], dim=-1)

    def overlay(
        self, input_ids: Int64[Tensor, "N L"],
    ) -> tuple[Bool[Tensor, "N L"], Float[Tensor, "n W"]] | None:
        """Where text holds reserved ids, and what stands there in place of the base's rows; None without embeddings."""
        if self.input is None:
            return None
        mask_NL = torch.isin(input_ids, self.ids)
        index = (input_ids[mask_NL][:, None] == self.ids).int().argmax(-1)
        return mask_NL, self.embed(index[None])[0]

    def _capped(self, logits: Tensor) -> Tensor:
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)


def _rows(matrix: Tensor, ids: Tensor) -> Tensor:
    matrix = matrix.detach().float()
    known = ids < len(matrix)
    rows = matrix.mean(0) + matrix.std() * torch.randn(len(ids), matrix.shape[1])
    rows[known] = matrix[ids[known]]
    return rows


__all__ = ["ActionVocabulary", "Reserve", "VocabularyError", "reserve_ids"]
