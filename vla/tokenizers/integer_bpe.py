"""Byte-pair encoding of sequences of small integers, by the `tokenizers` library.

Integers are handed to the library as characters of one contiguous block of Unicode. The result is a
list of merges of ids, plain integers, from which everything else follows.

B sequences, C integers in each.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Self

import numpy as np
from jaxtyping import Int64
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from vla.tokenizers.base import TokenizerError

# ideographs: none of them is a space, combines with its neighbour or has another case
_BLOCK = 0x4E00


class IntegerBPE:
    """Ids 0 .. 2 * greatest are the integers -greatest .. greatest; each merge may add one more.

    Attributes:
        greatest: of the integers, by magnitude.
        merges: pairs of ids that become one, the most frequent first.
        tokens: the integers of every id.

    Raises:
        TokenizerError: a merge of ids that do not exist.
    """

    def __init__(self, greatest: int, merges: Sequence[tuple[int, int]]) -> None:
        self.greatest = greatest
        self.merges = list(merges)
        texts = [chr(_BLOCK + i) for i in range(2 * greatest + 1)]
        ids = {text: i for i, text in enumerate(texts)}
        pairs = []
        for left, right in self.merges:
            if not (0 <= left < len(texts) and 0 <= right < len(texts)):
                raise TokenizerError(
                    f"merge of the ids {left} and {right}, there are {len(texts)} so far; "
                    "fit it again"
                )
            pairs.append((texts[left], texts[right]))
            merged = texts[left] + texts[right]
            # the same integers may be merged in several ways, and must not get a second id
            if merged not in ids:
                ids[merged] = len(texts)
                texts.append(merged)
        self.tokens = [[ord(c) - _BLOCK - greatest for c in text] for text in texts]
        self._tokenizer = Tokenizer(BPE(vocab=ids, merges=pairs))

    @classmethod
    def train(cls, integers: Int64[np.ndarray, "B C"], greatest: int, vocab_size: int) -> Self:
        """Learns merges from sequences of integers in [-greatest, greatest].

        Ends when there are `vocab_size` ids, or no pair occurs twice.
        """
        alphabet = [chr(_BLOCK + i) for i in range(2 * greatest + 1)]
        # the whole alphabet, seen or not: every chunk must be encodable
        trainer = BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            initial_alphabet=alphabet,
            special_tokens=[],
            show_progress=False,
        )
        tokenizer = Tokenizer(BPE())
        tokenizer.train_from_iterator(_texts(integers, greatest), trainer)
        ids = {text: i for i, text in enumerate(alphabet)}
        merges = []
        for left, right in json.loads(tokenizer.to_str())["model"]["merges"]:
            merges.append((ids[left], ids[right]))
            ids.setdefault(left + right, len(ids))
        return cls(greatest, merges)

    def encode(self, integers: Int64[np.ndarray, "B C"]) -> list[list[int]]:
        """Ids of each sequence."""
        texts = _texts(integers, self.greatest)
        rows = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [row.ids for row in rows]


def _texts(integers_BC: np.ndarray, greatest: int) -> list[str]:
    count, length = integers_BC.shape
    # all rows in one decode: a character is four bytes in UTF-32, as an integer is
    text = (integers_BC + (_BLOCK + greatest)).astype("<u4").tobytes().decode("utf-32-le")
    return [text[i * length : (i + 1) * length] for i in range(count)]


__all__ = ["IntegerBPE"]
