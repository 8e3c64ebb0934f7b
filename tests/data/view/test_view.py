"""The page of a dataset: what stands in it, that nothing in it is code of others, and that it stays within its bytes."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from vla.cli.app import app
from vla.data import DataError, DatasetWriter, Episode, EpisodeDataset, VideoReader
from vla.data.view import write_view
from vla.data.view.histogram import histogram
from vla.data.view.sampling import shown_order, spread_order
from vla.data.view.videos import QUALITIES, encode_camera
from vla.types import Spec

VOID = {"meta", "input", "img", "path", "br"}
EVIL = '<script>window.hacked = 1</script><img src=x onerror="window.hacked=1"> & \'open\' "it"'


class Parsed(HTMLParser):
    """All elements of a page with their attributes and own text. Fails where tags do not match."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.elements: list[dict[str, Any]] = []
        self._open: list[dict[str, Any]] = []
        self.feed(page.read_text("utf-8"))
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = {"tag": tag, **{key: value or "" for key, value in attrs}, "text": ""}
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append({"tag": tag, **{key: value or "" for key, value in attrs}, "text": ""})

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()["tag"] == tag

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element["text"] += data

    def all(self, tag: str, css: str = "") -> list[dict[str, Any]]:
        return [
            e
            for e in self.elements
            if e["tag"] == tag and (not css or css in e.get("class", "").split())
        ]

    def values(self, episode: int) -> np.ndarray:
        """The curves of the episode-th episode on the page, float32 (D, steps)."""
        raw = base64.b64decode(self.all("div", "curves")[episode]["data-values"])
        return np.frombuffer(raw, "<f4").reshape(len(self.signals), -1)

    @property
    def signals(self) -> list[dict[str, Any]]:
        return json.loads(self.all("main")[0]["data-signals"])


@pytest.fixture
def room_for(tmp_path: Path) -> Callable[..., Path]:
    """room_for(episodes, spec) -> folder of a dataset."""

    def make(episodes: list[Episode], spec: Spec, name: str = "set") -> Path:
        with DatasetWriter(tmp_path / name, spec) as writer:
            for episode in episodes:
                writer.add_episode(episode)
        return tmp_path / name

    return make


def test_a_page_holds_the_numbers_and_videos_of_the_episodes(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    dataset = EpisodeDataset(write([5, 1, 7]))
    view = write_view(tmp_path / "view.html", dataset, jobs=1)
    assert (view.episodes, view.filmed, view.total, view.bytes) == (
        3,
        3,
        3,
        view.path.stat().st_size,
    )
    page = Parsed(view.path)
    assert [e["id"] for e in page.all("details", "episode")] == [
        "episode-0",
        "episode-1",
        "episode-2",
    ]
    assert [s["name"] for s in page.signals] == [
        "dx",
        "grip",
        "x",
        "y",
        "gripper",
        "reward",
        "return so far",
    ]
    assert [s["steps"] for s in page.signals] == [False, True, False, False, True, False, False]
    for index in range(3):
        expected = dataset.episode(index)
        values = page.values(index)
        np.testing.assert_array_equal(values[:2].T, expected.actions)
        np.testing.assert_array_equal(values[2:5].T, expected.state)
        np.testing.assert_array_equal(values[5], expected.rewards)
        np.testing.assert_allclose(
            values[6], np.cumsum(expected.rewards.astype(np.float64)), rtol=1e-6
        )
    players = page.all("div", "player")
    assert [p["data-solved"] for p in players] == ["-1", "0", "-1"]
    assert len(page.all("video")) == 6
    assert "All 3 episodes are shown." in page.all("header")[0]["text"]
    assert "drawer-open" in page.all("dl", "info")[0]["text"]


def test_a_video_shows_the_frame_of_every_step(
    room_for: Callable[..., Path], spec: Spec, tmp_path: Path
) -> None:
    rate = 62.5
    spec = dataclasses.replace(spec, cameras={"front": (600, 401)}, control_hz=rate)
    grey = np.linspace(20, 230, 20).astype(np.uint8)
    frames = np.broadcast_to(grey[:, None, None, None], (20, 600, 401, 3)).copy()
    dataset = EpisodeDataset(room_for([_still(spec, frames)], spec))
    video = encode_camera(dataset, "front", 3, 20, QUALITIES[0], video=True)
    assert (video.size, video.stride, video.frames) == ((172, 256), 3, 6)
    path = tmp_path / "video.mp4"
    path.write_bytes(base64.b64decode(video.source.removeprefix("data:video/mp4;base64,")))
    with VideoReader(path, rate / 3) as reader:
        found = [int(image.mean()) for image in reader.frames()]
    np.testing.assert_allclose(found, grey[3::3], atol=4)


def test_without_an_encoder_a_video_is_one_image(
    room_for: Callable[..., Path], spec: Spec, tmp_path: Path
) -> None:
    import io

    from PIL import Image

    spec = dataclasses.replace(spec, cameras={"front": (16, 24)})
    grey = np.array([10, 90, 170, 250, 130], np.uint8)
    frames = np.broadcast_to(grey[:, None, None, None], (5, 16, 24, 3)).copy()
    dataset = EpisodeDataset(room_for([_still(spec, frames)], spec))
    view = write_view(tmp_path / "view.html", dataset, video=False, jobs=1)
    (image,) = Parsed(view.path).all("img", "sheet")
    assert (image["data-columns"], image["data-frames"], image["width"], image["height"]) == (
        "3",
        "5",
        "24",
        "16",
    )
    sheet = Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2])))
    found = [sheet.getpixel((24 * (i % 3) + 12, 16 * (i // 3) + 8))[0] for i in range(5)]  # type: ignore[index]
    np.testing.assert_allclose(found, grey, atol=4)


def test_texts_of_the_dataset_never_become_html(
    room_for: Callable[..., Path], episode: Callable[..., Episode], spec: Spec, tmp_path: Path
) -> None:
    spec = dataclasses.replace(spec, state_names=(EVIL, "</main>", "--><b>"))
    nasty = dataclasses.replace(episode(1, 3), instruction=EVIL, info={EVIL: EVIL})
    dataset = EpisodeDataset(room_for([nasty, nasty], spec, name="<b>set"))
    view = write_view(tmp_path / "view.html", dataset, jobs=1)
    page = Parsed(view.path)
    assert len(page.all("script")) == 1
    assert not [
        e for e in page.elements if e["tag"] in ("b", "image") or any(k.startswith("on") for k in e)
    ]
    assert all(e["src"].startswith("data:image/webp;base64,") for e in page.all("img"))
    details = page.all("details", "episode")[0]
    assert details["data-task"] == EVIL
    assert EVIL in page.all("span", "task")[0]["text"]
    assert page.signals[2]["name"] == EVIL
    assert "<b>set" in page.all("h1")[0]["text"]


def test_a_page_needs_nothing_else_and_allows_nothing_else(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    view = write_view(tmp_path / "view.html", EpisodeDataset(write([4])), jobs=1)
    page = Parsed(view.path)
    assert not page.all("link")
    for element in page.elements:
        for key in ("src", "href", "poster", "action", "srcset"):
            assert element.get(key, "data:").startswith("data:")
    policy = next(
        e["content"] for e in page.all("meta") if e.get("http-equiv") == "Content-Security-Policy"
    )
    script = page.all("script")[0]["text"]
    assert (
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in policy
    )
    assert policy.startswith("default-src 'none';")
    assert str(tmp_path) not in view.path.read_text()


def test_a_page_stays_within_its_bytes(
    room_for: Callable[..., Path], episode: Callable[..., Episode], spec: Spec, tmp_path: Path
) -> None:
    spec = dataclasses.replace(spec, cameras={"front": (96, 96)})
    rng = np.random.default_rng(0)
    episodes = []
    for number_ in range(8):
        noise = rng.integers(0, 256, (12, 96, 96, 3), dtype=np.uint8)
        episodes.append(dataclasses.replace(episode(number_, 12), images={"front": noise}))
    dataset = EpisodeDataset(room_for(episodes, spec))
    whole = write_view(tmp_path / "whole.html", dataset, jobs=1)
    assert (whole.episodes, whole.filmed) == (8, 8)
    video_megabytes = sum(len(v["src"]) for v in Parsed(whole.path).all("video")) / 1e6
    bare = whole.bytes / 1e6 - video_megabytes
    sides = set()
    for part in (0.8, 0.3, 0.02):
        limit = bare + 0.02 + part * video_megabytes
        view = write_view(tmp_path / "small.html", dataset, max_mb=limit, jobs=1)
        page = Parsed(view.path)
        assert view.bytes == view.path.stat().st_size <= limit * 1e6
        assert len(page.all("video")) == view.filmed
        sides |= {v["width"] for v in page.all("video")}
        if view.filmed < view.episodes:
            assert f"{view.filmed} of them have videos" in page.all("header")[0]["text"]
    assert view.filmed < 8
    with pytest.raises(DataError, match="does not hold one episode; raise --max-mb"):
        write_view(tmp_path / "small.html", dataset, max_mb=0.02, jobs=1)


def test_long_curves_are_thinned_and_many_episodes_left_out(
    room_for: Callable[..., Path], spec: Spec, tmp_path: Path
) -> None:
    spec = dataclasses.replace(spec, cameras={})
    steps = 4500
    long = Episode(
        images={},
        state=np.arange(3 * steps, dtype=np.float32).reshape(steps, 3),
        actions=np.zeros((steps, 2), np.float32),
        rewards=np.zeros(steps, np.float32),
        success=np.zeros(steps, bool),
        terminated=False,
        instruction="wait",
    )
    dataset = EpisodeDataset(room_for([long, long, long], spec))
    view = write_view(tmp_path / "view.html", dataset, max_mb=0.15, jobs=1)
    page = Parsed(view.path)
    assert view.bytes <= 150_000
    assert 0 < view.episodes < 3
    assert "The page had no room for" in page.all("header")[0]["text"]
    assert page.all("div", "curves")[0]["data-stride"] == "3"
    np.testing.assert_array_equal(page.values(0)[2:5].T, long.state[::3])
    # Nothing is rewarded or solved: the page does not speak of it as of failures.
    assert [s["group"] for s in page.signals] == ["Action"] * 2 + ["State"] * 3
    assert not page.all("span", "outcome")
    assert "No step is marked as solved" in page.all("section")[1]["text"]


def test_a_sample_holds_tasks_and_outcomes_evenly() -> None:
    assert spread_order(8) == [0, 4, 2, 6, 1, 5, 3, 7]
    assert [spread_order(n) for n in (0, 1, 2)] == [[], [0], [0, 1]]
    rng = np.random.default_rng(3)
    table = pd.DataFrame(
        {"task_index": np.repeat(np.arange(10), 40), "success": rng.random(400) < 0.1}
    )
    order = shown_order(table)
    assert sorted(order) == list(range(400))
    first = table.iloc[order[:20]]
    assert sorted(first["task_index"]) == sorted([*range(10), *range(10)])
    assert first["success"].sum() == 10
    five = table.iloc[order[:10]]["task_index"].unique()
    assert len(five) == 5
    assert max(five) - min(five) >= 7


def test_a_damaged_picture_is_named_in_the_place_of_its_video(
    room_for: Callable[..., Path], episode: Callable[..., Episode], spec: Spec, tmp_path: Path
) -> None:
    # The writer looks at every second of 16 pictures, to tell their mean; not at the second one.
    whole = episode(0, 16)
    files = whole.png("front")
    files[1] = files[1][:-24]
    broken = dataclasses.replace(whole, images={**whole.images, "front": files})
    dataset = EpisodeDataset(room_for([broken, episode(1, 3)], spec))
    view = write_view(tmp_path / "view.html", dataset, jobs=1)
    page = Parsed(view.path)
    (broken,) = page.all("p", "broken")
    assert "frame 1, camera 'front'" in broken["text"]
    assert len(page.all("video")) == 3


def test_rewards_that_are_no_numbers_do_not_break_the_page(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = EpisodeDataset(write([4, 4]))
    columns = dataclasses.replace(
        dataset.columns, rewards=np.array([0, np.nan, 1, 2, 3, np.inf, 5, 6], np.float32)
    )
    monkeypatch.setattr(dataset.reader, "columns", lambda: columns)
    page = Parsed(write_view(tmp_path / "view.html", dataset, jobs=1).path)
    assert (page.signals[5]["low"], page.signals[5]["high"]) == (0.0, 6.0)
    np.testing.assert_array_equal(page.values(0)[5], [0, np.nan, 1, 2])


def test_drawings_by_hand() -> None:
    assert 'd="M0 26v-26h3v26zM8 26v-13h3v13z"' in histogram(
        np.array([0, 0, 3, np.nan]), "x", bins=3
    )
    assert 'aria-label="Histogram of &lt;x&gt;, 5 to 5"' in histogram(np.array([5.0]), "<x>")


def test_the_command_writes_page_and_recording(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write([3, 4, 2])
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["data", "view", str(source), "--episodes", "2,0"])
    assert result.exit_code == 0, result.output
    assert "2 of 3 episodes, 2 with videos" in result.output
    assert [e["id"] for e in Parsed(tmp_path / "view.html").all("details", "episode")] == [
        "episode-0",
        "episode-2",
    ]
    for arguments, said in (
        (["--episodes", "9"], "there are episodes 0 to 2"),
        (["--out", str(tmp_path)], "is a folder; name the file"),
        (["cameras.front=nothing"], "nothing"),
    ):
        result = CliRunner().invoke(app, ["data", "view", str(source), *arguments])
        assert result.exit_code == 2, result.output
        assert said in result.output
        assert "Traceback" not in result.output


def _still(spec: Spec, frames: np.ndarray) -> Episode:
    """An episode of these pictures in which nothing else happens."""
    steps = len(frames)
    return Episode(
        images={"front": frames},
        state=np.zeros((steps, spec.state_dim), np.float32),
        actions=np.zeros((steps, spec.action_dim), np.float32),
        rewards=np.zeros(steps, np.float32),
        success=np.zeros(steps, bool),
        terminated=False,
        instruction="look",
    )


# --- in a browser ------------------------------------------------------------------------------------


def _browser() -> Any:
    """The tests' helper for headless browsers."""
    import importlib

    return importlib.import_module("chromium")


_LOOK = """(async () => {
  const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
  const open = document.querySelector("details.episode[open]");
  const films = [...open.querySelectorAll("video")];
  for (let i = 0; i < 100 && films.some((v) => v.readyState < 2 && !v.error); i++) await wait(50);
  const slider = open.querySelector(".transport input");
  slider.value = "4";
  slider.dispatchEvent(new Event("input"));
  for (let i = 0; i < 100 && films.some((v) => v.seeking || Math.abs(v.currentTime - 0.45) > 1e-3); i++) await wait(50);
  const search = document.querySelector(".controls input");
  const state = {
    errors: films.map((v) => v.error && v.error.message),
    ready: films.every((v) => v.readyState > 1),
    times: films.map((v) => v.currentTime),
    now: open.querySelector(".now").textContent,
    rows: [...open.querySelectorAll(".row")].map((r) => [r.querySelector(".name").textContent, r.querySelector(".value").textContent]),
    hacked: window.hacked ?? 0,
    wide: document.documentElement.scrollWidth,
  };
  search.value = "push";
  search.dispatchEvent(new Event("input"));
  state.left = [...document.querySelectorAll("details.episode")].filter((d) => !d.hidden).map((d) => d.dataset.episode);
  search.value = "";
  search.dispatchEvent(new Event("input"));
  const order = [...document.querySelectorAll(".order button")].find((b) => b.dataset.key === "steps");
  order.click();
  state.order = [...document.querySelectorAll("details.episode")].map((d) => d.dataset.steps);
  return state;
})()"""


@pytest.mark.skipif(
    not any(
        map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))
    ),
    reason="no chromium is installed: the page was not looked at",
)
def test_the_page_works_in_a_real_browser(
    room_for: Callable[..., Path], episode: Callable[..., Episode], spec: Spec, tmp_path: Path
) -> None:
    spec = dataclasses.replace(spec, cameras={"front": (48, 64), "wrist": (32, 32)})
    rng = np.random.default_rng(1)
    episodes = []
    for index, steps in enumerate((9, 12, 7)):
        images = {
            c: rng.integers(0, 256, (steps, *size, 3), dtype=np.uint8)
            for c, size in spec.cameras.items()
        }
        episodes.append(dataclasses.replace(episode(index, steps), images=images))
    episodes.append(dataclasses.replace(episodes[0], instruction=EVIL, info={EVIL: EVIL}))
    dataset = EpisodeDataset(room_for(episodes, spec))
    view = write_view(tmp_path / "view.html", dataset, jobs=1)
    browser = _browser()
    with browser.chromium(browser.find_chromium(), tmp_path / "profile", seconds=120) as page:
        for width, dark in ((1280, False), (375, True)):
            page.open(view.path, width=width, dark=dark)
            found = page.run(_LOOK)
            assert found["errors"] == [None, None]
            assert found["ready"]
            np.testing.assert_allclose(found["times"], 0.45, atol=1e-3)
            assert found["now"] == "step 4 of 8, 0.40 s"
            shown = [float(value.replace("−", "-")) for _, value in found["rows"]]
            expected = [*episodes[0].actions[4], *episodes[0].state[4], episodes[0].rewards[4]]
            np.testing.assert_allclose(shown[:6], expected, atol=1e-3)
            assert found["hacked"] == 0
            assert found["wide"] <= width
            assert found["left"] == ["1"]
            assert found["order"] == ["7", "9", "9", "12"]
        assert [p for p in page.problems if not p.startswith("asked for blob:")] == []
