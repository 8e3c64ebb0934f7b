"""The page put together within a number of bytes: which episodes it shows, and how good their films are."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from vla.common.atomic import atomic_path
from vla.common.cores import usable_cores
from vla.common.progress import ProgressCallback
from vla.data.errors import DataError
from vla.data.reader import EpisodeDataset
from vla.data.select import Episodes, chosen_episodes
from vla.data.tools.plan import source_name
from vla.data.view.episodes import Shown
from vla.data.view.page import Page, encoded
from vla.data.view.sampling import shown_order
from vla.data.view.videos import QUALITIES, Film, Quality, make_film, thumbnail

SAMPLE = 50
MAX_MB = 50.0
_PROBES = 3
_CURVES_AT_MOST = 0.5
_SLACK_BYTES = 4096

"""Called with (frames done, frames in all)."""


@dataclass(frozen=True)
class View:
    """The page that was written.

    Attributes:
        path: of the page.
        bytes: its size.
        episodes: how many are shown.
        filmed: how many of them with films.
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
    """Writes one HTML file with the dataset's numbers, and with films and curves of its episodes.

    The file stays within `max_mb`: films become smaller first, then some episodes have none, and where even the curves are
    too many, fewer episodes are shown. The page says so. A picture that is damaged is named in the place of its film.

    Args:
        path: of the page, usually `view.html`.
        episodes: which are shown; by default `sample` of them, evenly over tasks, successes and failures.
        max_mb: millions of bytes.
        video: films as H.264; False as images of all frames, None as H.264 where there is an encoder for it.
        jobs: threads that decode and encode; one per core by default.

    Raises:
        DataError: the dataset is damaged, there is no such episode, or not even one episode fits into `max_mb`.
    """
    path = Path(path)
    if path.is_dir():
        raise DataError(
            f"{path}: is a folder; name the file of the page, for example {path / 'view.html'}"
        )
    order = _chosen(dataset, episodes, sample)
    page = Page(dataset, asked=len(order), sampled=episodes is None)
    builder = _Builder(page, int(max_mb * 1_000_000), video, jobs or usable_cores())
    shown = builder.fitting(order)
    builder.add_films(shown, progress)
    written = builder.within(shown)
    with atomic_path(path) as temporary:
        temporary.write_bytes(written)
    return View(path, len(written), len(shown), sum(bool(s.films) for s in shown), len(dataset))


def spread_episodes(dataset: EpisodeDataset, count: int) -> list[int]:
    """At most `count` episodes, evenly over tasks, successes and failures. Raises DataError where `count` is below 1."""
    if count < 1:
        raise DataError(f"sample is {count}; expected at least 1 episode")
    return shown_order(dataset.episodes)[:count]


def _chosen(dataset: EpisodeDataset, episodes: Episodes | None, sample: int) -> list[int]:
    """Episodes in the order in which they deserve room."""
    if episodes is None:
        return spread_episodes(dataset, sample)
    chosen = chosen_episodes(episodes, len(dataset), str(dataset.root))
    if not chosen:
        raise DataError(
            f"{dataset.root}: episodes {episodes!r}: names none; expected for example 0:20"
        )
    return [chosen[i] for i in shown_order(dataset.episodes.iloc[chosen])]


class _Builder:
    """Gives the bytes of a page to episodes and films."""

    def __init__(self, page: Page, max_bytes: int, video: bool | None, jobs: int) -> None:
        self.page, self.dataset, self.max_bytes, self.video, self.jobs = (
            page,
            page.dataset,
            max_bytes,
            video,
            jobs,
        )
        self.room = max_bytes - _SLACK_BYTES - len(encoded(page.html([])))

    def fitting(self, order: list[int]) -> list[Shown]:
        """The first of `order` whose curves and all the rest of the page leave room for films, without films yet."""
        room = int(self.room * _CURVES_AT_MOST) if self.dataset.spec.cameras else self.room
        found: list[Shown] = []
        for index in order:
            shown = Shown(index, thumbnail=self._thumbnail(index))
            cost = len(encoded(self.page.episode(shown)))
            if cost > room:
                break
            room -= cost
            self.room -= cost
            found.append(shown)
        if not found:
            raise self._too_small()
        return found

    def add_films(self, order: list[Shown], progress: ProgressCallback | None) -> None:
        """Adds films while there is room for them."""
        if not self.dataset.spec.cameras:
            return
        steps = self.dataset.episodes["length"].to_numpy()
        total, done = int(sum(steps[shown.index] for shown in order)), 0
        with ThreadPoolExecutor(self.jobs) as pool:
            quality, made = self._quality(order, pool)
            # A few at a time: what is encoded and found to have no room is lost.
            for first in range(0, len(order), self.jobs):
                batch = order[first : first + self.jobs]
                encoded = pool.map(lambda s: made.get(s.index) or self._films(s, quality), batch)
                for shown, films in zip(batch, encoded, strict=True):
                    self._add(shown, films)
                    done += int(steps[shown.index])
                    if progress is not None:
                        progress(done, total)

    def _add(self, shown: Shown, films: dict[str, Film | str]) -> None:
        without = len(encoded(self.page.episode(shown)))
        shown.films = films
        cost = len(encoded(self.page.episode(shown))) - without
        if cost > self.room:
            shown.films = {}
        else:
            self.room -= cost

    def within(self, shown: list[Shown]) -> bytes:
        """The page; warnings that came up while images were read may take the room of the last films."""
        while len(written := encoded(self.page.html(shown))) > self.max_bytes:
            filmed = [s for s in shown if s.films]
            if filmed:
                filmed[-1].films = {}
            elif shown:
                shown.pop()
            else:
                raise self._too_small()
        return written

    def _quality(
        self, order: list[Shown], pool: ThreadPoolExecutor
    ) -> tuple[Quality, dict[int, dict[str, Film | str]]]:
        """The best quality at which all films would fit, told from a few of them; and those few."""
        steps = self.dataset.episodes["length"].to_numpy()
        probes = order[:_PROBES]
        share = sum(int(steps[s.index]) for s in probes) / sum(int(steps[s.index]) for s in order)
        for quality in QUALITIES:
            encoded = pool.map(self._films, probes, [quality] * len(probes))
            made = {shown.index: films for shown, films in zip(probes, encoded, strict=True)}
            sources = [
                film.source
                for films in made.values()
                for film in films.values()
                if isinstance(film, Film)
            ]
            if sum(map(len, sources)) <= share * self.room:
                break
        return quality, made

    def _films(self, shown: Shown, quality: Quality) -> dict[str, Film | str]:
        row = self.dataset.episodes.iloc[shown.index]
        start, stop = int(row["first_frame"]), int(row["first_frame"] + row["length"])
        films: dict[str, Film | str] = {}
        for camera in self.dataset.spec.cameras:
            try:
                films[camera] = make_film(
                    self.dataset, camera, start, stop, quality, video=self.video
                )
            except DataError as error:
                films[camera] = str(error).replace(
                    str(self.dataset.root), source_name(self.dataset.root)
                )
        return films

    def _thumbnail(self, index: int) -> str:
        camera = next(iter(self.dataset.spec.cameras), None)
        try:
            return (
                ""
                if camera is None
                else thumbnail(
                    self.dataset, camera, int(self.dataset.episodes["first_frame"].iloc[index])
                )
            )
        except DataError:
            return ""  # the place of the film says what is wrong

    def _too_small(self) -> DataError:
        megabytes = self.max_bytes / 1e6
        return DataError(
            f"{self.dataset.root}: a page of {megabytes:g} MB does not hold one episode; raise --max-mb"
        )
