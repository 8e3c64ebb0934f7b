"""Datasets behind a URL: in fsspec's memory, in a folder, and on a server that speaks as the
Hugging Face hub does."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import fsspec
import numpy as np
import pytest

from vla.data import DataError, DatasetWriter, Episode, EpisodeDataset, Windows
from vla.data.loading.streaming.streamed_windows import StreamedWindows
from vla.data.storage import remote_cache
from vla.data.storage import remote_files as remote
from vla.data.storage.remote_files import as_url
from vla.types import Spec

SPEC = Spec(
    cameras={"front": (64, 64), "front2": (48, 48)},
    state_names=("x",),
    action_names=("dx",),
    action_low=(-1.0,),
    action_high=(1.0,),
    control_hz=5.0,
)
EPISODES = 4


def episode(number: int) -> Episode:
    rng = np.random.default_rng(number)
    L = 5 + number
    return Episode(
        images={
            c: rng.integers(0, 256, (L, *size, 3), dtype=np.uint8)
            for c, size in SPEC.cameras.items()
        },
        state=rng.normal(size=(L, 1)).astype(np.float32),
        actions=rng.uniform(-1, 1, (L, 1)).astype(np.float32),
        rewards=np.zeros(L, np.float32),
        success=np.zeros(L, bool),
        terminated=False,
        instruction="lift",
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("source") / "lift"
    with DatasetWriter(root, SPEC) as writer:
        for number in range(EPISODES):
            writer.add_episode(episode(number))
    return root


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "_FIRST_PAUSE_SECONDS", 0.01)


@pytest.fixture
def in_memory(source: Path) -> Iterator[str]:
    fs = fsspec.filesystem("memory")
    fs.put(str(source), "/lift", recursive=True)
    yield "memory://lift"
    fs.rm("/lift", recursive=True)


def marks(dataset: EpisodeDataset) -> list[str]:
    return sorted(p.name for p in (dataset.root.parent / ".fetched").rglob("*") if p.is_file())


def assert_equal(dataset: EpisodeDataset, number: int) -> None:
    found, expected = dataset.episode(number), episode(number)
    np.testing.assert_array_equal(found.actions, expected.actions)
    for camera in SPEC.cameras:
        np.testing.assert_array_equal(found.frames(camera), expected.images[camera])


def test_urls_are_distinguished_from_paths() -> None:
    assert as_url("hf://datasets/someone/robot") == "hf://datasets/someone/robot"
    assert as_url(Path("hf://datasets/someone/robot")) == "hf://datasets/someone/robot"
    assert as_url(Path("file:///data/lift")) == "file:///data/lift"
    assert as_url("data/lift") is None
    assert as_url(Path("/data/lift")) is None
    assert as_url("C:/data/lift") is None


def test_numbers_come_at_once_and_images_when_asked_for(in_memory: str, source: Path) -> None:
    dataset = EpisodeDataset(in_memory)
    local = EpisodeDataset(source)
    assert (dataset.spec, dataset.instructions, dataset.root.name) == (
        local.spec,
        local.instructions,
        "lift",
    )
    np.testing.assert_array_equal(dataset.columns.state, local.columns.state)
    assert marks(dataset) == []
    before = dataset.fingerprint()
    assert_equal(dataset, 2)
    assert len(marks(dataset)) == len(SPEC.cameras)
    assert dataset.fingerprint() == before
    for number in range(EPISODES):
        assert_equal(dataset, number)
    assert len(marks(dataset)) == len(SPEC.cameras) * EPISODES


def test_only_chosen_episodes_and_cameras_are_fetched_while_streaming(source: Path) -> None:
    dataset = EpisodeDataset(f"file://{source}")
    options: dict[str, Any] = {"history": 2, "chunk": 1, "episodes": [3, 1], "cameras": ["front"]}
    windows = StreamedWindows(dataset, memory_gb=64 * 64 * 3 * 3 * 10 / 2**30, **options)
    whole = Windows(EpisodeDataset(source), **options)
    order = windows.order(batch_size=4, seed=0)
    for step in range(6):
        rows = order.indices(step)
        np.testing.assert_array_equal(
            windows.batch(rows).images["front"], whole.batch(rows).images["front"]
        )
    windows.close()
    assert len(marks(dataset)) == 2
    assert_equal(dataset, 0)


def test_a_changed_dataset_is_fetched_again(source: Path, tmp_path: Path) -> None:
    fs = fsspec.filesystem("memory")
    fs.put(str(source), "/changing", recursive=True)
    first = EpisodeDataset("memory://changing")
    with DatasetWriter(tmp_path / "more", SPEC) as writer:
        for number in (2, 3):
            writer.add_episode(episode(number))
    fs.rm("/changing", recursive=True)
    fs.put(str(tmp_path / "more"), "/changing", recursive=True)
    second = EpisodeDataset("memory://changing")
    assert (first.num_episodes, second.num_episodes) == (EPISODES, 2)
    assert first.root != second.root
    fs.rm("/changing", recursive=True)


def test_what_is_not_there_or_no_dataset_is_reported(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"memory://nowhere: .*correct the address"):
        EpisodeDataset("memory://nowhere")
    with pytest.raises(DataError, match=r"nothing://x: .*hf://datasets/USER/NAME"):
        EpisodeDataset("nothing://x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "note.txt").write_text("hello")
    with pytest.raises(DataError, match="no LeRobot dataset is here"):
        EpisodeDataset(f"file://{tmp_path}/folder")


def test_a_damaged_file_there_is_named(source: Path) -> None:
    fs = fsspec.filesystem("memory")
    fs.put(str(source), "/damaged", recursive=True)
    name = fs.glob("/damaged/data/*/*.parquet")[0]
    fs.pipe_file(name, fs.cat_file(name)[:-20])
    with pytest.raises(DataError, match=r"file-000\.parquet"):
        EpisodeDataset("memory://damaged")
    fs.rm("/damaged", recursive=True)


# --- a server -------------------------------------------------------------------------------------


class Hub(BaseHTTPRequestHandler):
    """The few answers of the hub that a dataset needs; every `fail_every`-th one is an error of the
    server."""

    protocol_version = "HTTP/1.1"
    root: Path
    count, fail_every = 0, 0
    sent = 0

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        cls = type(self)
        cls.count += 1
        path = unquote(urlsplit(self.path).path)
        if cls.fail_every and cls.count % cls.fail_every == 0:
            return self.answer(408, b"busy")  # the hub's own client waits for seconds after a 503
        if "/resolve/" in path:
            return self.file(self.root / path.split("/resolve/")[1].partition("/")[2])
        if "/tree/" in path:
            files = [p for p in self.root.rglob("*") if p.is_file()]
            entries = [
                {
                    "type": "file",
                    "oid": "0" * 40,
                    "size": p.stat().st_size,
                    "path": p.relative_to(self.root).as_posix(),
                }
                for p in files
            ]
            return self.answer(200, json.dumps(entries).encode(), "application/json")
        if path.startswith("/api/datasets/someone/lift"):
            info = {
                "id": "someone/lift",
                "sha": "1" * 40,
                "private": False,
                "tags": [],
                "siblings": [],
            }
            return self.answer(200, json.dumps(info).encode(), "application/json")
        return self.answer(404, b"", headers={"X-Error-Code": "RepoNotFound"})

    def file(self, path: Path) -> None:
        if not path.is_file():
            return self.answer(404, b"", headers={"X-Error-Code": "EntryNotFound"})
        data, asked = path.read_bytes(), self.headers.get("Range")
        headers = {"ETag": '"0"', "X-Repo-Commit": "1" * 40, "Accept-Ranges": "bytes"}
        if asked:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            part = data[int(first) : int(last) + 1 if last else None]
            headers["Content-Range"] = f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}"
            type(self).sent += len(part)
            return self.answer(206, part, headers=headers)
        return self.answer(200, data, headers=headers)

    def answer(
        self, status: int, body: bytes, kind: str = "application/octet-stream", headers: Any = None
    ) -> None:
        self.send_response(status)
        for name, value in (
            {"Content-Type": kind, "Content-Length": str(len(body))} | (headers or {})
        ).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@pytest.fixture
def hub(source: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    from huggingface_hub import HfFileSystem

    handler = type("OwnHub", (Hub,), {"root": source})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
    )
    thread.start()
    monkeypatch.setitem(
        fsspec.config.conf, "hf", {"endpoint": f"http://127.0.0.1:{server.server_port}"}
    )
    HfFileSystem.clear_instance_cache()
    yield handler
    server.shutdown()
    server.server_close()
    HfFileSystem.clear_instance_cache()


def test_a_dataset_on_the_hub_is_read_in_pieces(
    hub: type[Hub], source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_cache, "_GAP", 2**8)
    monkeypatch.setattr(remote_cache, "_FOOTER_GUESS", 2**13)
    dataset = EpisodeDataset("hf://datasets/someone/lift")
    for number in (0, 2):
        assert_equal(dataset, number)
    whole = sum(p.stat().st_size for p in source.rglob("*") if p.is_file())
    assert hub.sent < 0.8 * whole


def test_a_server_that_fails_now_and_then_is_asked_again(hub: type[Hub]) -> None:
    hub.fail_every = 4
    dataset = EpisodeDataset("hf://datasets/someone/lift")
    for number in range(EPISODES):
        assert_equal(dataset, number)


def test_without_a_network_what_was_fetched_is_there(hub: type[Hub]) -> None:
    assert_equal(EpisodeDataset("hf://datasets/someone/lift"), 1)
    hub.fail_every = 1
    dataset = EpisodeDataset("hf://datasets/someone/lift")
    assert_equal(dataset, 1)
    with pytest.raises(DataError, match=r"hf://datasets/someone/lift: .*check the network"):
        dataset.episode(2)


def test_a_dataset_that_does_not_exist_or_cannot_be_reached_is_reported(hub: type[Hub]) -> None:
    with pytest.raises(DataError, match=r"hf://datasets/someone/other: .*correct the address"):
        EpisodeDataset("hf://datasets/someone/other")
    hub.fail_every = 1
    with pytest.raises(DataError, match=r"hf://datasets/someone/lift: .*check the network"):
        EpisodeDataset("hf://datasets/someone/lift")
