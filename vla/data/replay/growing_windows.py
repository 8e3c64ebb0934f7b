"""Windows of episodes that come while a policy acts, of which the oldest are dropped.

E: episodes, N: steps, H and W: image height and width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

import numpy as np

from vla.data.episode import Episode, check_episode
from vla.data.errors import DataError
from vla.data.loading.row_copy import RowGatherer
from vla.data.loading.windows import Windows
from vla.data.reader import EpisodeDataset
from vla.data.replay.frame_ring import FrameRing
from vla.data.replay.memory_dataset import MemoryDataset
from vla.data.rewards import RewardConfig
from vla.data.storage.resizing import resized_image
from vla.types import ImageSize, Spec


class _RingFrames:
    """What `Windows` asks of a cache of frames."""

    def __init__(self, rings: Mapping[str, FrameRing]) -> None:
        self._rings = rings

    @property
    def frames(self) -> dict[str, np.ndarray]:
        return {camera: ring.frames for camera, ring in self._rings.items()}


class GrowingWindows(Windows):
    """As `Windows`, of episodes in memory; the batches of equal episodes are equal to the bit.

    Adding costs the decoding of the new frames and one pass over the numbers of all.

    Args:
        spec: of the robot.
        history, chunk, next_step, discount, rewards, extras, threads: as of `Windows`.
        cameras: which to keep; all of the spec by default.
        image_sizes: camera -> the size at which its frames are kept; others as they come.
        max_frames: steps that are kept; the oldest whole episodes go first. None keeps all.

    `columns` are those of the present episodes; `append` forgets them.
    """

    def __init__(
        self,
        spec: Spec,
        *,
        history: int,
        chunk: int,
        next_step: int = 0,
        discount: float = 1.0,
        rewards: RewardConfig | None = None,
        extras: Sequence[str] = (),
        cameras: Sequence[str] | None = None,
        image_sizes: Mapping[str, ImageSize] | None = None,
        max_frames: int | None = None,
        threads: int = 1,
    ) -> None:
        self.spec = spec
        self.history = history
        self.chunk = chunk
        self.next_step = next_step
        self.discount = discount
        self.reward_config = rewards or RewardConfig()
        self.max_frames = max_frames
        self.columns: dict[str, np.ndarray] = {}
        self._extra_names = list(extras)
        self._gather = RowGatherer(threads=threads, pin_memory=False)
        sizes = image_sizes or {}
        names = list(spec.cameras) if cameras is None else list(cameras)
        self.cameras = names
        self._sizes = {camera: sizes.get(camera) for camera in names}
        self._rings: dict[str, FrameRing] = {}
        for camera, size in self._sizes.items():
            kept = spec.cameras[camera] if size is None else size[:2]
            self._rings[camera] = FrameRing((kept[0], kept[1]), max_frames)
        self._cache = _RingFrames(self._rings)  # type: ignore[assignment]
        self._kept: list[Episode] = []
        self._rows_of: list[np.ndarray] = []

    @property
    def kept(self) -> Sequence[Episode]:
        """The episodes, oldest first, without images."""
        return self._kept

    def append(self, episodes: Sequence[Episode]) -> None:
        """Adds episodes, and drops the oldest ones beyond `max_frames`.

        Raises DataError if one does not fit the spec, or is longer than `max_frames`.
        """
        for number, episode in enumerate(episodes, start=len(self._kept)):
            check_episode(episode, self.spec, number)
            if self.max_frames is not None and len(episode) > self.max_frames:
                raise DataError(
                    f"episode {number}: has {len(episode)} steps, of which {self.max_frames} are "
                    "kept; keep more"
                )
            for name in self._extra_names:
                if name not in episode.extras:
                    raise DataError(
                        f"episode {number}: there is no extra column {name!r}; it has: "
                        f"{', '.join(episode.extras) or 'none'}"
                    )
            self._drop_oldest(len(episode))
            self._rows_of.append(self._add_frames(episode))
            # the ring has the frames: their files would be held twice
            self._kept.append(replace(episode, images={}))
        dataset = MemoryDataset(self.spec, self._kept)
        self.dataset = cast(EpisodeDataset, dataset)
        self.instructions = dataset.instructions
        self.episodes = list(range(len(dataset)))
        self.columns = {}
        self._read_numbers()
        self._row = np.concatenate(self._rows_of)

    def _drop_oldest(self, steps: int) -> None:
        """Makes room for so many more."""
        if self.max_frames is None:
            return
        total = sum(len(episode) for episode in self._kept)
        dropped = 0
        while total + steps > self.max_frames:
            total -= len(self._kept[dropped])
            dropped += 1
        del self._kept[:dropped], self._rows_of[:dropped]

    def _add_frames(self, episode: Episode) -> np.ndarray:
        """The places of the episode's frames, the same in every camera's ring."""
        rows = np.arange(len(episode))
        for camera, ring in self._rings.items():
            frames = episode.frames(camera)
            size = self._sizes[camera]
            if size is not None:
                frames = np.stack([resized_image(frame, size) for frame in frames])
            rows = ring.add(frames)
        return rows

    def __len__(self) -> int:
        return len(self.actions) if self._kept else 0


__all__ = ["GrowingWindows"]
