"""How a vision-language model without action ids answers questions about pictures: how likely the
right answer is, and whether it is what the model would say.

N pairs, n tokens of the longest answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vla.models.layers.vision_language import VisionLanguageModel


@dataclass(frozen=True)
class Answered:
    """What a model makes of N right answers.

    Attributes:
        losses: (N,) mean cross-entropy of each answer's tokens, nats.
        exact: (N,) whether greedy decoding writes the answer, to its end and not beyond.
    """

    losses: Float[Tensor, " N"]
    exact: Bool[Tensor, " N"]


def judge_answers(
    trunk: VisionLanguageModel,
    images: Sequence[Sequence[Any]],
    prompts: Sequence[str],
    answers: Sequence[str],
) -> Answered:
    """One pass over N questions, each with its pictures (uint8 (H, W, 3)) and its right answer.

    Nothing has to be generated: greedy decoding writes an answer exactly if each of its tokens, the
    one of its end too, is the likeliest after those before it.

    Raises VLMError if the processor refuses the prompts.
    """
    prompt = trunk.prompt(prompts, images)
    answer_Nn, mask_Nn = trunk.answer(answers)
    hidden_NLW = trunk.hidden(prompt.append_ids(answer_Nn, mask_Nn))
    # each place predicts the next token: the last of the prompt the first of the answer
    logits_NnV = trunk.model.get_output_embeddings()(hidden_NLW[:, prompt.length - 1 : -1]).float()
    if trunk.softcap is not None:
        logits_NnV = trunk.softcap * torch.tanh(logits_NnV / trunk.softcap)
    losses_Nn = nn.functional.cross_entropy(logits_NnV.transpose(1, 2), answer_Nn, reduction="none")
    right_Nn = logits_NnV.argmax(-1) == answer_Nn
    return Answered(
        losses=(losses_Nn * mask_Nn).sum(-1) / mask_Nn.sum(-1),
        exact=(right_Nn | ~mask_Nn).all(-1),
    )


__all__ = ["Answered", "judge_answers"]
