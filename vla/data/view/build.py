"""The page put together within a number of bytes: how many episodes, how good their videos."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from vla.common.atomic import atomic_path
from vla.common.cores import usable_cores
from vla.common.html import encoded
from vla.common.progress import ProgressCallback
from vla.data.errors import DataError
from vla.data.reader import EpisodeDataset, dataset_name
from vla.data.select import Episodes
from vla.data.view.episodes import Shown
from vla.data.view.page import Page
from vla.data.view.sampling import shown_order
from vla.data.view.videos import QUALITIES, CameraVideo, Quality, encode_camera, thumbnail

SAMPLE = 50
MAX_MB = 50.0
_PROBES = 3
"""Episodes by which the size of all videos is judged."""
_CURVES_AT_MOST = 0.5
"""Share of a page with videos that curves may take."""
_SLACK_BYTES = 4096
"""For what changes with the episodes outside of them: counts, and the list of tasks."""

Videos = dict[str, CameraVideo | str]
"""Camera -> its video, or what was wrong with its images."""


@dataclass(frozen=True)
class View:
    """The page that was written.

    Attributes:
        path: of the page.
        bytes: its size.
        episodes: how many are shown.
        filmed: how many of them with videos.
        total: how many the dataset has.
    """

    path: Path
    bytes: int
    episodes: int
    filmed: int
    total: int


def write_view(
    path: str | Path,
    dataset: EpisodeDataset,
    *,
    episodes: Episodes | None = None,
    sample: int = SAMPLE,
    max_mb: float = MAX_MB,
    video: bool | None = None,
    jobs: int | None = None,
    progress: ProgressCallback | None = None,
) -> View:
    """Writes one HTML file with the dataset's numbers, and with videos and curves of its episodes.

    The file stays within `max_mb`: videos become smaller first, then some episodes have none, and
    if even the curves are too many, fewer episodes are shown. The page says so. A picture that is
    damaged is named in the place of its video.

    Args:
        path: of the page, usually `view.html`.
        episodes: which are shown; by default `sample` of them, evenly over tasks, successes and
            failures.
        max_mb: millions of bytes.
        video: videos as H.264; False as images of all frames, None as H.264 if there is an encoder
            for it.
        jobs: threads that decode and encode; one per core by default.
        progress: called with (frames done, frames in all).

    Raises:
        DataError: the dataset is damaged, there is no such episode, or not even one episode fits
            into `max_mb`.
    """
    path = Path(path)
    if path.is_dir():
        raise DataError(
            f"{path}: is a folder; name the file of the page, for example {path / 'view.html'}"
        )
    # held from the start: who comes second learns it before it has worked
    with atomic_path(path) as temporary:
        order = _chosen(dataset, episodes, sample)
        is_sample = episodes is None
        page = Page(dataset, asked=len(order), sampled=is_sample)
        max_bytes = int(max_mb * 1_000_000)
        builder = _Builder(page, max_bytes, video, jobs or usable_cores())
        shown = builder.fitting_episodes(order)
        builder.add_videos(shown, progress)
        written = builder.fitting_page(shown)
        temporary.write_bytes(written)
    return View(
        path=path,
        bytes=len(written),
        episodes=len(shown),
        filmed=sum(bool(episode.videos) for episode in shown),
        total=len(dataset),
    )


def spread_episodes(dataset: EpisodeDataset, count: int) -> list[int]:
    """At most `count` episodes, evenly over tasks, successes and failures.

    Raises DataError if `count` is below 1.
    """
    if count < 1:
        raise DataError(f"sample is {count}; expected at least 1 episode")
    return shown_order(dataset.episodes)[:count]


def _chosen(dataset: EpisodeDataset, episodes: Episodes | None, sample: int) -> list[int]:
    """Episodes in the order in which they deserve room."""
    if episodes is None:
        return spread_episodes(dataset, sample)
    chosen = dataset.chosen_episodes(episodes)
    if not chosen:
        raise DataError(
            f"{dataset.root}: episodes {episodes!r}: names none; expected for example 0:20"
        )
    order = shown_order(dataset.episodes.iloc[chosen])
    return [chosen[i] for i in order]


class _Builder:
    """Gives the bytes of a page to episodes first, then to videos.

    Both in the order in which episodes deserve to be shown. `bytes_left` is what nobody has yet.
    """

    def __init__(self, page: Page, max_bytes: int, video: bool | None, jobs: int) -> None:
        self.page = page
        self.dataset = page.dataset
        self.max_bytes = max_bytes
        self.video = video
        self.jobs = jobs
        without_episodes = encoded(page.html([]))
        self.bytes_left = max_bytes - _SLACK_BYTES - len(without_episodes)

    def fitting_episodes(self, order: list[int]) -> list[Shown]:
        """The first of `order` that the page has room for, without videos yet."""
        # curves come first, but not at the price of all videos
        share = _CURVES_AT_MOST if self.dataset.spec.cameras else 1.0
        room = int(self.bytes_left * share)
        found: list[Shown] = []
        for index in order:
            shown = Shown(index, thumbnail=self._thumbnail(index))
            cost = self._cost(shown)
            if cost > room:
                break
            room -= cost
            self.bytes_left -= cost
            found.append(shown)
        if not found:
            raise self._too_small()
        return found

    def add_videos(self, order: list[Shown], progress: ProgressCallback | None) -> None:
        """Adds videos while there is room for them."""
        if not self.dataset.spec.cameras:
            return
        total = self._frames(order)
        done = 0
        with ThreadPoolExecutor(self.jobs) as pool:
            quality, made = self._quality(order, pool)

            def videos_of(shown: Shown) -> Videos:
                return made.get(shown.index) or self._videos(shown, quality)

            # a few at a time: what is encoded and then has no room was made in vain
            for first in range(0, len(order), self.jobs):
                batch = order[first : first + self.jobs]
                encoding = pool.map(videos_of, batch)
                for shown, videos in zip(batch, encoding, strict=True):
                    self._add(shown, videos)
                    done += self._frames([shown])
                    if progress is not None:
                        progress(done, total)

    def _add(self, shown: Shown, videos: Videos) -> None:
        without = self._cost(shown)
        shown.videos = videos
        cost = self._cost(shown) - without
        if cost > self.bytes_left:
            # a later episode may be shorter and still find room
            shown.videos = {}
        else:
            self.bytes_left -= cost

    def fitting_page(self, shown: list[Shown]) -> bytes:
        """The page; the last videos, then the last episodes, give way if it is too large."""
        # images were read since its room was counted, and what is odd in them is said in the page
        written = encoded(self.page.html(shown))
        while len(written) > self.max_bytes:
            with_videos = [episode for episode in shown if episode.videos]
            if with_videos:
                with_videos[-1].videos = {}
            elif shown:
                shown.pop()
            else:
                raise self._too_small()
            written = encoded(self.page.html(shown))
        return written

    def _quality(
        self, order: list[Shown], pool: ThreadPoolExecutor
    ) -> tuple[Quality, dict[int, Videos]]:
        """The best quality at which all videos would fit, judged by a few; and those few."""
        probes = order[:_PROBES]
        share = self._frames(probes) / self._frames(order)
        for quality in QUALITIES:
            encoding = pool.map(self._videos, probes, [quality] * len(probes))
            made = {}
            for shown, videos in zip(probes, encoding, strict=True):
                made[shown.index] = videos
            if sum(map(_bytes_of, made.values())) <= share * self.bytes_left:
                break
        # the worst one stands even if it is still too large: then some episodes have no videos
        return quality, made

    def _videos(self, shown: Shown, quality: Quality) -> Videos:
        row = self.dataset.episodes.iloc[shown.index]
        start = int(row["first_frame"])
        stop = start + int(row["length"])
        videos: Videos = {}
        for camera in self.dataset.spec.cameras:
            try:
                videos[camera] = encode_camera(
                    self.dataset, camera, start, stop, quality, video=self.video
                )
            except DataError as error:
                # a page that is sent to somebody says nothing of this machine's folders
                root = self.dataset.root
                videos[camera] = str(error).replace(str(root), dataset_name(root))
        return videos

    def _thumbnail(self, index: int) -> str:
        camera = next(iter(self.dataset.spec.cameras), None)
        if camera is None:
            return ""
        first = int(self.dataset.episodes["first_frame"].iloc[index])
        try:
            return thumbnail(self.dataset, camera, first)
        except DataError:
            return ""  # the place of the video says what is wrong

    def _frames(self, order: list[Shown]) -> int:
        lengths = self.dataset.episodes["length"].to_numpy()
        return sum(int(lengths[shown.index]) for shown in order)

    def _cost(self, shown: Shown) -> int:
        return len(encoded(self.page.episode(shown)))

    def _too_small(self) -> DataError:
        return DataError(
            f"{self.dataset.root}: a page of {self.max_bytes / 1e6:g} MB "
            "does not hold one episode; raise --max-mb"
        )


def _bytes_of(videos: Videos) -> int:
    count = 0
    for video in videos.values():
        if isinstance(video, CameraVideo):
            count += len(video.source)
    return count
