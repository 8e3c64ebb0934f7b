"""How often a vision-language model says exactly what is right, and how often it would without the
picture."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import torch

from vla.data.loading.image_text import ImageTextPairs
from vla.models.layers.vision_language import VisionLanguageModel
from vla.models.layers.vision_language_parts.answers import judge_answers

_BATCH = 32


def answer_accuracy(
    trunk: VisionLanguageModel, pairs: ImageTextPairs, *, most: int
) -> dict[str, float]:
    """Shares of answers that greedy decoding writes exactly.

    Args:
        most: pairs that are asked at most, evenly spread.

    Returns:
        `exact` and `loss` (mean nats per token); `blind`, the share when each question is asked of
        another scene's picture, which shows how much the question alone gives away; and both shares
        by kind, `exact/KIND` and `blind/KIND`, where the pairs name kinds.
    """
    chosen = np.unique(np.linspace(0, len(pairs) - 1, min(most, len(pairs))).round().astype(int))
    others = _of_another_scene(pairs, chosen)
    sums: dict[str, list[float]] = defaultdict(list)
    for name, shown in (("exact", chosen), ("blind", others)):
        for start in range(0, len(chosen), _BATCH):
            rows = chosen[start : start + _BATCH]
            asked, seen = pairs.batch(rows), pairs.batch(shown[start : start + _BATCH])
            images = [[image] for image in seen.images]
            with torch.no_grad():
                found = judge_answers(trunk, images, asked.prompts, asked.answers)
            for row, exact in zip(rows.tolist(), found.exact.tolist(), strict=True):
                sums[name].append(exact)
                sums[f"{name}/{pairs.kinds[row]}"].append(exact)
            if name == "exact":
                sums["loss"] += found.losses.tolist()
    kinds = {kind for kind in pairs.kinds if kind}
    return {
        name: float(np.mean(values))
        for name, values in sorted(sums.items())
        if "/" not in name or name.partition("/")[2] in kinds
    }


def _of_another_scene(pairs: ImageTextPairs, chosen: np.ndarray) -> np.ndarray:
    """For each pair one whose picture is another, the same at every call."""
    names = [row["file_name"] for row in pairs.rows]
    first = {name: number for number, name in reversed(list(enumerate(names)))}
    pictures = list(dict.fromkeys(names))
    place = {name: number for number, name in enumerate(pictures)}

    def others() -> Iterator[int]:
        for number in chosen.tolist():
            # half of the row away: pictures that follow each other may show one scene
            away = max(1, len(pictures) // 2)
            yield first[pictures[(place[names[number]] + away) % len(pictures)]]

    return np.fromiter(others(), dtype=int, count=len(chosen))


__all__ = ["answer_accuracy"]
