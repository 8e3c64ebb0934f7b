"""What the first bytes of a file say of why it cannot be read, in every reader."""

from __future__ import annotations

from pathlib import Path

import pytest

from vla.data import EpisodeDataset
from vla.data.episode import decode_image
from vla.data.errors import DataError
from vla.data.formats.common.files import read_json, read_text
from vla.data.storage.image_files import file_image_size
from vla.data.storage.video import VideoReader

POINTER = (
    b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"ab" * 32 + b"\nsize 82515\n"
)
CAUSES = {
    "pointer": (POINTER, "run `git lfs pull` in "),
    "empty": (b"", "is empty"),
    "web page": (b"<!DOCTYPE html><html>sign in</html>", "is a web page"),
    "damage": (b"\x89HDF\r\n\x1a\nPK\x03\x04 and no more", "is damaged or no"),
}


@pytest.mark.parametrize("cause", CAUSES)
@pytest.mark.parametrize("suffix", [".npz", ".hdf5", ".h5"])
def test_files_of_arrays(tmp_path: Path, suffix: str, cause: str) -> None:
    data, expected = CAUSES[cause]
    path = tmp_path / f"data{suffix}"
    path.write_bytes(data)
    with pytest.raises(DataError, match=expected) as error:
        EpisodeDataset(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("cause", CAUSES)
def test_videos(tmp_path: Path, cause: str) -> None:
    data, expected = CAUSES[cause]
    (tmp_path / "front.mp4").write_bytes(data)
    with pytest.raises(DataError, match=expected):
        VideoReader(tmp_path / "front.mp4")


def test_texts_and_images(tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_bytes(POINTER)
    for read in (read_text, read_json):
        with pytest.raises(DataError, match=f"run `git lfs pull` in {tmp_path}"):
            read(tmp_path, tmp_path / "meta.json")
    with pytest.raises(DataError, match="git lfs pull"):
        decode_image(POINTER)
    with pytest.raises(DataError, match=r"front/0.png: a pointer of Git LFS"):
        file_image_size(POINTER, "front/0.png")


def test_a_dataset_further_below_is_named(tmp_path: Path) -> None:
    for name in ("monday", "tuesday"):
        folder = tmp_path / "robots" / name / "episode_0"
        folder.mkdir(parents=True)
        (folder / "steps.csv").write_text("timestamp,action.dx\n0,0\n0.1,1\n")
    expected = rf"lies below it: give {tmp_path}/robots/monday, or {tmp_path}/robots/tuesday"
    with pytest.raises(DataError, match=expected):
        EpisodeDataset(tmp_path)
