"""Pictures with a question and an answer, for vision-language models that learn to act.

They keep the model fluent in what it could say before.

A folder holds pictures and `metadata.jsonl`, a line for each pair: `{"file_name": "0001.jpg",
"prompt": "...", "answer": "..."}`. It is the image-folder form of the Hugging Face hub, which the
library `datasets` writes and reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vla.common.foreign.json_files import JsonError, parse_json
from vla.data.errors import DataError
from vla.data.formats.common.files import read_text
from vla.data.formats.lerobot_parts.paths import named_path
from vla.data.storage.image_files import decode_image

METADATA_FILE = "metadata.jsonl"
_KEYS = ("file_name", "prompt", "answer")


@dataclass(frozen=True)
class ImageTextBatch:
    """N pairs.

    Attributes:
        images: N pictures, uint8 (H, W, 3), RGB, each of its own size.
        prompts: the questions about them.
        answers: what shall be said.
    """

    images: list[np.ndarray]
    prompts: list[str]
    answers: list[str]

    def __len__(self) -> int:
        return len(self.images)

    def split(self, parts: int) -> list[ImageTextBatch]:
        """`parts` batches of equal size, in order."""
        size = len(self) // parts
        batches = []
        for number in range(parts):
            own = slice(number * size, (number + 1) * size)
            batches.append(ImageTextBatch(self.images[own], self.prompts[own], self.answers[own]))
        return batches


class ImageTextPairs:
    """The pairs in a folder; pictures are read when their pairs are gathered.

    Attributes:
        rows: file_name, prompt and answer of each pair.
        kinds: what kind of question each is (`kind` of its line), by which answers are counted; ""
            if its line does not say.

    Raises:
        DataError: no folder or metadata, a line that is no pair, a picture that is missing or lies
            outside of the folder, or no pairs at all.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        path = self.folder / METADATA_FILE
        if not path.is_file():
            raise DataError(
                f"{path}: no such file; expected a folder of pictures with {METADATA_FILE}, a line "
                '{"file_name": ..., "prompt": ..., "answer": ...} for each'
            )
        self.rows: list[dict[str, str]] = []
        self.kinds: list[str] = []
        # not splitlines: JSON may hold U+2028, which counts as the end of a line there
        for number, line in enumerate(read_text(self.folder, path).split("\n"), 1):
            if line.strip():
                row, kind = _row(line, f"{path}, line {number}")
                self.rows.append(row)
                self.kinds.append(kind)
        if not self.rows:
            raise DataError(f"{path}: holds no pairs")
        # now, not at the step that draws it: a run of hours must not end at a missing file
        for row in self.rows:
            if not self._picture(row).is_file():
                raise DataError(
                    f"{path}: names {row['file_name']!r}, which is not in {self.folder}"
                )

    def _picture(self, row: dict[str, str]) -> Path:
        """Where a pair's picture lies. Raises DataError if that is out of the folder."""
        return named_path(self.folder, row["file_name"], METADATA_FILE)

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: np.ndarray) -> ImageTextBatch:
        """The pairs `indices`, in that order. Raises DataError if a picture cannot be read."""
        rows = [self.rows[i] for i in indices.tolist()]
        return ImageTextBatch(
            images=[_read(self._picture(row)) for row in rows],
            prompts=[row["prompt"] for row in rows],
            answers=[row["answer"] for row in rows],
        )


def _row(line: str, place: str) -> tuple[dict[str, str], str]:
    """A pair, and what kind of question it is; "" if it does not say."""
    try:
        row: Any = parse_json(line, place)
    except JsonError as error:
        raise DataError(str(error)) from error
    if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in _KEYS):
        raise DataError(f"{place}: expected texts under {', '.join(_KEYS)}, found {line[:80]!r}")
    # a loss over no token would be NaN
    if not row["answer"].strip():
        raise DataError(f"{place}: the answer is empty; there is nothing to learn from it")
    kind = row.get("kind")
    return {key: row[key] for key in _KEYS}, kind if isinstance(kind, str) else ""


def _read(path: Path) -> np.ndarray:
    try:
        return decode_image(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}; restore the file") from error
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


__all__ = ["METADATA_FILE", "ImageTextBatch", "ImageTextPairs"]
