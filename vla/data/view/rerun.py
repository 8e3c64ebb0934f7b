"""Episodes as a recording for the rerun viewer: images, curves and words over `step` and `time`.

Everything of episode 3 lies below `episode_3/`: `camera/NAME`, `action`, `state`, `reward`,
`success`, `instruction`, `info`. The viewer's layout comes with the recording: a tab for each
episode.

L: steps of an episode, D: curves.
"""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from vla.common.atomic import atomic_path
from vla.common.progress import ProgressCallback
from vla.data.episode import read_info
from vla.data.errors import DataError
from vla.data.format import Image
from vla.data.reader import EpisodeDataset, dataset_name
from vla.data.select import Episodes
from vla.data.storage.image_codec import as_frame

JPEG_QUALITY = 90
_IMAGES_AT_ONCE = 64
_MEDIA = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg"}
"""First bytes of a file -> its kind."""


@dataclass(frozen=True)
class Recording:
    """The file that was written.

    Attributes:
        path: of the file.
        bytes: its size.
        episodes, frames: what it holds.
    """

    path: Path
    bytes: int
    episodes: int
    frames: int


def export_rerun(
    path: str | Path,
    dataset: EpisodeDataset,
    *,
    episodes: Episodes | None = None,
    progress: ProgressCallback | None = None,
) -> Recording:
    """Writes a `.rrd` file for the rerun viewer.

    PNG and JPEG files are passed on as they are; frames of videos become JPEG. Numbers are in robot
    units. The file appears whole or not at all.

    Args:
        path: of the file, usually `NAME.rrd`.
        episodes: which are written; all by default.
        progress: called with (frames done, frames in all).

    Raises:
        ModuleNotFoundError: rerun is not installed.
        DataError: there is no such episode, or an image is damaged.
    """
    import rerun

    path = Path(path)
    if path.is_dir():
        raise DataError(
            f"{path}: is a folder; name the file to write, for example {path / 'dataset.rrd'}"
        )
    chosen = dataset.chosen_episodes(episodes)
    if not chosen:
        raise DataError(
            f"{dataset.root}: episodes {episodes!r}: names none; expected for example 0:20"
        )
    lengths = dataset.episodes["length"].to_numpy()
    total = int(lengths[chosen].sum())
    done = 0
    with atomic_path(path) as temporary:
        recording = rerun.RecordingStream("vla_data", recording_id=dataset_name(dataset.root))
        # only the dataset's own time counts, not that of the export
        recording.set_log_time_enabled(False)
        recording.set_log_tick_enabled(False)
        recording.save(temporary, default_blueprint=_layout(dataset, chosen))
        try:
            recording.send_recording_name(dataset_name(dataset.root))
            for index in chosen:
                _write_episode(recording, dataset, index)
                done += int(lengths[index])
                if progress is not None:
                    progress(done, total)
            recording.flush()
        finally:
            # closes the file, which is renamed next
            recording.disconnect()
    return Recording(path, path.stat().st_size, len(chosen), total)


def _write_episode(recording: Any, dataset: EpisodeDataset, index: int) -> None:
    import rerun

    row, columns, spec = dataset.episodes.iloc[index], dataset.columns, dataset.spec
    start = int(row["first_frame"])
    stop = start + int(row["length"])
    place = f"episode_{dataset.episode_numbers[index]}"
    _write_instructions(recording, dataset, index, f"{place}/instruction")
    # static: words hold at all times, and the viewer shows them at every step
    info = rerun.TextDocument(_info(row, dataset.recorded), media_type="text/markdown")
    recording.log(f"{place}/info", info, static=True)
    # name, names of the curves, values (L, D)
    curves: list[tuple[str, Sequence[str], np.ndarray]] = [
        ("action", spec.action_names, columns.actions[start:stop]),
        ("state", spec.state_names, columns.state[start:stop]),
    ]
    # zeros that nobody recorded would look as if somebody had
    if "rewards" in dataset.recorded:
        curves.append(("reward", ("reward",), columns.rewards[start:stop, None]))
    if "success" in dataset.recorded:
        curves.append(("success", ("success",), columns.success[start:stop, None]))
    times = _times(np.arange(stop - start), spec.control_hz)
    for name, names, values in curves:
        if not names:  # a robot without state
            continue
        recording.log(f"{place}/{name}", rerun.SeriesLines(names=list(names)), static=True)
        scalars = rerun.Scalars.columns(scalars=values.astype(np.float64))
        recording.send_columns(f"{place}/{name}", indexes=times, columns=scalars)
    for camera in spec.cameras:
        _write_images(recording, dataset, camera, start, stop, _camera(place, camera))


def _write_instructions(recording: Any, dataset: EpisodeDataset, index: int, place: str) -> None:
    """The words of an episode; from each step on where they change."""
    import rerun

    starts = dataset.instruction_starts(index)
    if len(starts) == 1:
        recording.log(place, rerun.TextDocument(starts[0][1]), static=True)
        return
    steps = np.array([step for step, _ in starts])
    texts = rerun.TextDocument.columns(text=[text for _, text in starts])
    recording.send_columns(place, indexes=_times(steps, dataset.spec.control_hz), columns=texts)


def _write_images(
    recording: Any, dataset: EpisodeDataset, camera: str, start: int, stop: int, place: str
) -> None:
    import rerun

    # whole columns of a few images: a call for each of them is much slower, one for all holds the
    # episode in memory
    for first, files in _grouped(_encoded(dataset, camera, start, stop)):
        kinds = [_kind(file) for file in files]
        steps = np.arange(first - start, first - start + len(files))
        images = rerun.EncodedImage.columns(blob=files, media_type=kinds)
        recording.send_columns(
            place, indexes=_times(steps, dataset.spec.control_hz), columns=images
        )


def _camera(place: str, name: str) -> str:
    """The path of a camera; its name may hold what means something in paths."""
    import rerun

    return f"{place}/camera/{rerun.escape_entity_path_part(name)}"


def _times(steps: np.ndarray, control_hz: float) -> list[Any]:
    import rerun

    return [
        rerun.TimeColumn("step", sequence=steps),
        rerun.TimeColumn("time", duration=steps / control_hz),
    ]


def _encoded(
    dataset: EpisodeDataset, camera: str, start: int, stop: int
) -> Iterator[tuple[int, bytes]]:
    """(frame, image file) of the frames [start, stop)."""
    for frame, picture in dataset.images(camera, start, stop):
        try:
            yield frame, _as_file(picture)
        except DataError as error:
            raise DataError(f"{dataset.root}: frame {frame}, camera {camera!r}: {error}") from error


def _as_file(picture: Image) -> bytes:
    image = as_frame(picture)  # also of a file: what cannot be decoded here cannot be shown there
    if isinstance(picture, bytes) and _kind(picture):
        return picture
    file = io.BytesIO()
    PIL.Image.fromarray(image).save(file, format="JPEG", quality=JPEG_QUALITY)
    return file.getvalue()


def _kind(file: bytes) -> str:
    for beginning, kind in _MEDIA.items():
        if file.startswith(beginning):
            return kind
    return ""


def _grouped(files: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, list[bytes]]]:
    """(number of the first, images) of neighbouring frames, a few at a time."""
    first = 0
    group: list[bytes] = []
    for frame, file in files:
        if not group:
            first = frame
        group.append(file)
        if len(group) == _IMAGES_AT_ONCE:
            yield first, group
            group = []
    if group:
        yield first, group


def _info(row: Any, recorded: Collection[str]) -> str:
    """Outcome and info of an episode as a markdown table; its texts stay text."""
    outcome = {
        "solved": ("success", bool(row["success"])),
        "return": ("rewards", float(row["return"])),
        "terminated": ("terminated", bool(row["terminated"])),
    }
    facts: dict[str, Any] = {}
    for name, (label, value) in outcome.items():
        facts[name] = value if label in recorded else "not recorded"
    lines = ["| | |", "|---|---|"]
    for key, value in {**facts, **read_info(row["info"])}.items():
        lines.append(f"| {_cell(key)} | {_cell(value)} |")
    return "\n".join(lines)


def _cell(value: Any) -> str:
    # newlines and bars would end a cell; JSON writes the former as \n
    return json.dumps(str(value), ensure_ascii=False)[1:-1].replace("|", "\\|")


def _layout(dataset: EpisodeDataset, chosen: Sequence[int]) -> Any:
    """A tab for each episode: cameras and words on the left, curves on the right."""
    from rerun import blueprint

    curve_names = ["action", "state", "reward"]
    if not dataset.spec.state_dim:
        curve_names.remove("state")
    if "rewards" not in dataset.recorded:
        curve_names.remove("reward")
    tabs = []
    for number in dataset.episode_numbers[list(chosen)].tolist():
        place = f"episode_{number}"
        left: list[Any] = []
        cameras = []
        for name in dataset.spec.cameras:
            view = blueprint.Spatial2DView(origin=_camera(place, name), name=name)
            cameras.append(view)
        if cameras:  # an empty grid would be an empty box
            left.append(blueprint.Grid(*cameras))
        for name in ("instruction", "info"):
            left.append(blueprint.TextDocumentView(origin=f"{place}/{name}", name=name))
        right = []
        for name in curve_names:
            right.append(blueprint.TimeSeriesView(origin=f"{place}/{name}", name=name))
        columns = (blueprint.Vertical(*left), blueprint.Vertical(*right))
        tabs.append(blueprint.Horizontal(*columns, name=f"episode {number}"))
    return blueprint.Blueprint(blueprint.Tabs(*tabs))
