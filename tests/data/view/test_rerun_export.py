"""Recordings for rerun, read back with rerun's own reader."""

from __future__ import annotations

import builtins
import dataclasses
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from vla.cli.app import app
from vla.data import DataError, DatasetWriter, Episode, EpisodeDataset, VideoConfig
from vla.data.view.rerun import export_rerun
from vla.types import Spec

rerun = pytest.importorskip("rerun", reason="rerun-sdk is not installed")


def _read(path: Path) -> dict[str, dict[str, list[Any]]]:
    """Entity -> column -> values, in the order of steps."""
    from rerun.chunk import RrdReader

    found: dict[str, dict[str, list[Any]]] = {}
    reader = RrdReader(path)
    assert len(reader.recordings()) == 1
    assert len(reader.blueprints()) == 1
    for chunk in reader.stream().to_chunks():
        entity = found.setdefault(chunk.entity_path, {})
        batch = chunk.to_record_batch()
        for name in batch.schema.names:
            entity.setdefault(name, []).extend(batch.column(name).to_pylist())
    return found


def test_a_recording_holds_the_episodes(write: Callable[..., Path], tmp_path: Path) -> None:
    dataset = EpisodeDataset(write([4, 3, 2]))
    reported: list[tuple[int, int]] = []
    made = export_rerun(
        tmp_path / "a.rrd",
        dataset,
        episodes="0,2",
        progress=lambda done, total: reported.append((done, total)),
    )
    assert (made.episodes, made.frames, made.bytes) == (2, 6, made.path.stat().st_size)
    assert reported == [(4, 6), (6, 6)]
    found = _read(made.path)
    assert {place.split("/")[1] for place in found} - {"__properties"} == {"episode_0", "episode_2"}
    for index in (0, 2):
        expected, place = dataset.episode(index), f"/episode_{index}"
        for name, values in (("action", expected.actions), ("state", expected.state)):
            entity = found[f"{place}/{name}"]
            np.testing.assert_array_equal(np.array(entity["Scalars:scalars"], np.float32), values)
            assert entity["step"] == list(range(len(expected)))
            np.testing.assert_allclose(
                [t.total_seconds() for t in entity["time"]], np.arange(len(expected)) / 10
            )
        assert found[f"{place}/action"]["SeriesLines:names"] == [["dx", "grip"]]
        assert found[f"{place}/state"]["SeriesLines:names"] == [["x", "y", "gripper"]]
        np.testing.assert_array_equal(
            np.array(found[f"{place}/reward"]["Scalars:scalars"], np.float32)[:, 0],
            expected.rewards,
        )
        assert found[f"{place}/instruction"]["TextDocument:text"] == [[expected.instruction]]
        for camera in expected.images:
            images = found[f"{place}/camera/{camera}"]
            assert images["EncodedImage:media_type"] == [["image/png"]] * len(expected)
            decoded = [
                np.asarray(Image.open(io.BytesIO(bytes(blob[0]))))
                for blob in images["EncodedImage:blob"]
            ]
            np.testing.assert_array_equal(np.stack(decoded), expected.frames(camera))


def test_frames_of_videos_become_jpeg_in_several_groups(
    tmp_path: Path, episode: Callable[..., Episode], spec: Spec
) -> None:
    steps = 70
    spec = dataclasses.replace(spec, cameras={"front.left-cam": (32, 32)})
    grey = np.linspace(0, 255, steps).astype(np.uint8)
    images = {
        "front.left-cam": np.broadcast_to(grey[:, None, None, None], (steps, 32, 32, 3)).copy()
    }
    with DatasetWriter(tmp_path / "set", spec, video=VideoConfig()) as writer:
        writer.add_episode(
            dataclasses.replace(episode(0, 3), images={c: i[:3] for c, i in images.items()})
        )
        writer.add_episode(dataclasses.replace(episode(1, steps), images=images))
    made = export_rerun(tmp_path / "a.rrd", EpisodeDataset(tmp_path / "set"), episodes=[1])
    (place,) = (place for place in _read(made.path) if "/camera/" in place)
    found = _read(made.path)[place]
    assert found["EncodedImage:media_type"] == [["image/jpeg"]] * steps
    assert found["step"] == list(range(steps))
    means = [
        np.asarray(Image.open(io.BytesIO(bytes(blob[0])))).mean()
        for blob in found["EncodedImage:blob"]
    ]
    np.testing.assert_allclose(means, grey, atol=4)


def test_a_damaged_image_leaves_no_file(
    tmp_path: Path, episode: Callable[..., Episode], spec: Spec
) -> None:
    # The writer looks at every second of 16 pictures, to tell their mean; not at the second one.
    whole = episode(0, 16)
    files = whole.png("front")
    files[1] = files[1][:-24]
    images = {**whole.images, "front": files}
    with DatasetWriter(tmp_path / "set", spec) as writer:
        writer.add_episode(dataclasses.replace(whole, images=images))
    with pytest.raises(DataError, match="frame 1, camera 'front'"):
        export_rerun(tmp_path / "out" / "a.rrd", EpisodeDataset(tmp_path / "set"))
    assert list((tmp_path / "out").iterdir()) == []


def test_the_command_and_a_missing_extra(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = write([2, 2]), tmp_path / "a.rrd"
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(
        app, ["data", "view", str(source), "--rrd", str(out), "--sample", "1"]
    )
    assert result.exit_code == 0, result.output
    assert "1 of 2 episodes" in result.output
    assert out.is_file()
    assert not Path("view.html").exists()

    real = builtins.__import__

    def without_rerun(name: str, *rest: Any, **named: Any) -> Any:
        if name.split(".")[0] == "rerun":
            raise ModuleNotFoundError("No module named 'rerun'", name="rerun")
        return real(name, *rest, **named)

    monkeypatch.delitem(sys.modules, "rerun", raising=False)
    monkeypatch.setattr(builtins, "__import__", without_rerun)
    result = CliRunner().invoke(
        app, ["data", "view", str(source), "--rrd", str(tmp_path / "b.rrd")]
    )
    assert result.exit_code == 2
    assert "rerun is not installed: pip install 'vla[rerun]'" in result.output
    assert not (tmp_path / "b.rrd").exists()


def test_an_instruction_that_changes_stands_where_it_does(
    tmp_path: Path, episode: Callable[..., Episode], spec: Spec
) -> None:
    texts = ["reach", "reach", "lift", "reach"]
    changing = dataclasses.replace(episode(0, 4), instruction="reach", instructions=texts)
    with DatasetWriter(tmp_path / "set", spec) as writer:
        writer.add_episode(changing)
    made = export_rerun(tmp_path / "a.rrd", EpisodeDataset(tmp_path / "set"))
    entity = _read(made.path)["/episode_0/instruction"]
    assert entity["TextDocument:text"] == [["reach"], ["lift"], ["reach"]]
    assert entity["step"] == [0, 2, 3]
