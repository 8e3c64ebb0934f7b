"""Image-text pairs: reading, and every way in which a folder can be wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vla.data.errors import DataError
from vla.data.loading.image_text import ImageTextPairs


def write(folder: Path, rows: list[dict]) -> Path:
    folder.mkdir(exist_ok=True)
    for i in range(3):
        Image.fromarray(np.full((8 + i, 10, 3), 40 * i, np.uint8)).save(folder / f"{i}.png")
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


ROWS = [
    {"file_name": f"{i}.png", "prompt": f"question {i}", "answer": f"answer {i}"} for i in range(3)
]


def test_pairs_in_the_order_asked_for(tmp_path):
    pairs = ImageTextPairs(write(tmp_path / "pairs", ROWS))
    assert len(pairs) == 3
    batch = pairs.batch(np.array([2, 0]))
    assert [image.shape for image in batch.images] == [(10, 10, 3), (8, 10, 3)]
    assert batch.images[0][0, 0].tolist() == [80, 80, 80]
    assert (batch.prompts, batch.answers) == (
        ["question 2", "question 0"],
        ["answer 2", "answer 0"],
    )
    assert [part.prompts for part in batch.split(2)] == [["question 2"], ["question 0"]]


def test_grey_and_transparent_pictures_become_rgb(tmp_path):
    folder = write(tmp_path / "pairs", ROWS)
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(folder / "0.png")
    Image.fromarray(np.zeros((5, 5, 4), np.uint8)).save(folder / "1.png")
    assert all(i.shape[-1] == 3 for i in ImageTextPairs(folder).batch(np.array([0, 1])).images)


BAD = {
    "no metadata": (
        lambda d: (d / "metadata.jsonl").unlink(),
        "metadata.jsonl: no such file; expected a folder",
    ),
    "empty": (lambda d: (d / "metadata.jsonl").write_text("\n"), "holds no pairs"),
    "no JSON": (lambda d: (d / "metadata.jsonl").write_text("{"), "line 1: not valid JSON"),
    "no pair": (
        lambda d: (d / "metadata.jsonl").write_text('{"file_name": "0.png"}'),
        "expected texts under file_name",
    ),
    "no answer": (
        lambda d: (d / "metadata.jsonl").write_text(json.dumps({**ROWS[0], "answer": " "})),
        "line 1: the answer is empty",
    ),
    "no picture": (lambda d: (d / "1.png").unlink(), "names '1.png', which is not in"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_folders_are_named(kind, tmp_path):
    folder = write(tmp_path / "pairs", ROWS)
    damage, message = BAD[kind]
    damage(folder)
    with pytest.raises(DataError, match=message):
        ImageTextPairs(folder)


def test_a_damaged_picture_is_named(tmp_path):
    folder = write(tmp_path / "pairs", ROWS)
    (folder / "1.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"1.png: not a readable image file"):
        ImageTextPairs(folder).batch(np.array([1]))
