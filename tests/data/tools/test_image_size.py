"""Datasets whose images are written at another size."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numbered_episodes import make_episode
from typer.testing import CliRunner

from vla.cli import app
from vla.data import DataError, DatasetWriter, EpisodeDataset
from vla.data.storage.resizing import resized_image
from vla.data.tools.conversion import convert
from vla.types import ImageSize


@pytest.mark.parametrize("video", [None, "h264", "av1"])
def test_images_of_another_size(tmp_path, spec, video):
    large = replace(spec, cameras={"front": (60, 80), "wrist": (12, 16)})
    # gray: videos store colours at half the resolution
    coarse = np.random.default_rng(0).integers(0, 256, (4, 3, 4, 1), np.uint8).repeat(3, -1)
    with DatasetWriter(tmp_path / "src", large) as writer:
        images = {}
        for camera, size in large.cameras.items():
            images[camera] = np.stack([resized_image(image, size) for image in coarse])
        for number in range(2):
            writer.add_episode(replace(make_episode(number, 4), images=images))
    command = ["data", "convert", str(tmp_path / "src"), str(tmp_path / "out")]
    if video is not None:
        command += ["--video", video]
    result = CliRunner().invoke(app, [*command, "--image-size", "12x16"], terminal_width=300)
    assert result.exit_code == 0, result.output
    assert "images of front were resized from 60x80 to 12x16" in result.output
    assert "stretches" not in result.output
    assert "images of wrist" not in result.output
    source, made = EpisodeDataset(tmp_path / "src"), EpisodeDataset(tmp_path / "out")
    assert made.spec == replace(large, cameras={"front": (12, 16), "wrist": (12, 16)})
    assert made.metadata["made"]["options"]["image_size"] == "12x16"
    small = source.resized({"front": ImageSize(12, 16)})
    found = made.episode(1).frames("front").astype(int)
    error = np.abs(found - small.episode(1).frames("front"))
    assert error.max() == 0 if video is None else error.mean() < 12
    if video is None:  # of this size already: byte for byte
        assert list(made.images("wrist")) == list(source.images("wrist"))
    # the same command goes on, another size does not
    assert (
        "(2 episodes were there)"
        in CliRunner().invoke(app, [*command, "--image-size", "12x16"]).output
    )
    other = CliRunner().invoke(app, [*command, "--image-size", "30"])
    assert "image_size was '12x16', is '30x30'" in other.output


def test_images_of_another_size_at_another_rate(tmp_path, write):
    source = write([6, 4], "src")
    command = ["data", "resample", str(source), str(tmp_path / "out"), "--control-hz", "5"]
    result = CliRunner().invoke(app, [*command, "--image-size", "3", "kinds.dx=delta"])
    assert result.exit_code == 0, result.output
    assert "resized from 6x8 to 3x3, which stretches them" in " ".join(result.output.split())
    made = EpisodeDataset(tmp_path / "out")
    assert made.spec.cameras == {"front": (3, 3), "wrist": (3, 3)}
    sizes = dict.fromkeys(made.spec.cameras, ImageSize(3, 3))
    expected = EpisodeDataset(source).resized(sizes).episode(0).frames("front")[::2]
    np.testing.assert_array_equal(made.episode(0).frames("front"), expected)


def test_image_sizes_that_are_none(tmp_path, write, spec):
    source = write([3], "src")
    for text in ("0", "96x", "96,96", "big"):
        command = ["data", "convert", str(source), str(tmp_path / "out"), "--image-size", text]
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 2
        assert f"--image-size '{text}'" in result.output
    blind = replace(spec, cameras={})
    with DatasetWriter(tmp_path / "blind", blind) as writer:
        writer.add_episode(replace(make_episode(0, 3), images={}))
    with pytest.raises(DataError, match="has no camera whose images could be of size 96x96"):
        convert(tmp_path / "blind", tmp_path / "out", image_size=(96, 96))
