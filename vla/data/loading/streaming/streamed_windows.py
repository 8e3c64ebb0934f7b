"""Windows of data larger than memory: numbers stay, frames come and go in shuffled blocks.

N: windows of the chosen episodes, B: windows in a batch, T: steps of a window, H and W: image
height and width.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vla.data.loading.ranges import joined_ranges
from vla.data.loading.streaming.stream_frames import SLOTS, BlockFrames, OnDemandFrames
from vla.data.loading.streaming.stream_order import BlockNumber, StreamOrder
from vla.data.loading.windows import Windows
from vla.data.reader import EpisodeDataset
from vla.data.rewards import RewardConfig
from vla.types import Batch


class StreamedWindows(Windows):
    """`Windows` whose frames are decoded shortly before they are used.

    `order` gives the order of a training run, in which frames are read ahead by threads. Any other
    windows can be gathered too: theirs are decoded on demand, and kept while there is room (none
    beside an order).

    Args:
        dataset: where the episodes are.
        memory_gb: how much decoded frames may take, in GiB; numbers, stored bytes and batches come
            on top.
        decoders: threads that decode; by default one per core, shared among the processes of this
            machine.
        history, chunk, next_step, discount, rewards, episodes, cameras, extras, threads,
        pin_memory: see `Windows`.

    Raises:
        DataError: see `Windows`; or the memory does not hold a few windows.
    """

    _blocks: BlockFrames | None = None  # also of an object whose __init__ has raised: see __del__

    def __init__(
        self,
        dataset: EpisodeDataset,
        *,
        history: int,
        chunk: int,
        next_step: int = 0,
        discount: float = 1.0,
        rewards: RewardConfig | None = None,
        episodes: Sequence[int] | None = None,
        cameras: Sequence[str] | None = None,
        extras: Sequence[str] = (),
        memory_gb: float = 4.0,
        decoders: int | None = None,
        threads: int = 1,
        pin_memory: bool = False,
    ) -> None:
        if memory_gb <= 0:
            raise ValueError(f"memory_gb is {memory_gb}; expected more than 0")
        # without cameras: the base class would decode every frame now
        super().__init__(
            dataset,
            history=history,
            chunk=chunk,
            next_step=next_step,
            discount=discount,
            rewards=rewards,
            episodes=episodes,
            cameras=[],
            extras=extras,
            threads=threads,
            pin_memory=pin_memory,
        )
        self.cameras = list(dataset.spec.cameras if cameras is None else cameras)
        self._decoders = decoders
        self._memory = int(memory_gb * 2**30)
        sizes = [dataset.spec.cameras[camera] for camera in self.cameras]
        self._frame_bytes = sum(height * width * 3 for height, width in sizes)
        first_E = dataset.episodes["first_frame"].to_numpy(np.int64)[self.episodes]
        self._dataset_frame = joined_ranges(first_E, self.lengths)  # (N,)
        self._on_demand = OnDemandFrames(dataset, self.cameras, room=self._memory)
        self._announced: list[BlockNumber] = []
        # the order announces blocks in the loading thread, while validation may gather in another
        self._lock = threading.Lock()

    @property
    def decoded(self) -> int:
        """How many frames were read in blocks so far, of each camera."""
        return 0 if self._blocks is None else self._blocks.decoded

    def order(
        self,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        weights: np.ndarray | None = None,
    ) -> StreamOrder:
        """Endless batches of indices of these windows, whose frames are read ahead.

        See `StreamOrder`.

        One at a time: a second one takes the place of the first. Raises DataError if the memory
        does not hold a few windows.
        """
        rows = min(self._memory // SLOTS // max(1, self._frame_bytes), self._most_rows())
        order = StreamOrder(
            self.lengths,
            batch_size=batch_size,
            seed=seed,
            frames_per_block=rows,
            before=self.history - 1,
            after=self.next_step,
            rank=rank,
            world_size=world_size,
            weights=weights,
            on_blocks=self._expect,
        )
        self.close()
        # all memory goes to blocks; what is gathered out of order is decoded each time
        self._on_demand = OnDemandFrames(self.dataset, self.cameras, room=0)
        self._blocks = BlockFrames(
            self.dataset,
            self.cameras,
            rows=rows,
            dataset_frame=self._dataset_frame,
            threads=self._decoders,
        )
        return order

    def single_order(
        self,
        *,
        seed: int,
        rank: int,
        world_size: int,
        weights: np.ndarray | None,
    ) -> StreamOrder:
        """Endless single windows: this dataset's part of an `InterleavedSampler`.

        Each process draws from its own part, so that none decodes what another one uses.
        """
        return self.order(
            batch_size=world_size, seed=seed, rank=rank, world_size=world_size, weights=weights
        )

    def batch(self, indices: np.ndarray) -> Batch:
        """The windows `indices`, int (B,), as `Windows.batch` gives them."""
        batch = super().batch(indices)
        timestep_BT = batch.timesteps.numpy()
        # index of the current step, less its place in the episode: where the episode begins
        first_B = np.asarray(indices, np.int64) - timestep_BT[:, self.history - 1]
        frame_BT = first_B[:, None] + timestep_BT
        return dataclasses.replace(batch, images=self._images(frame_BT))

    def wait(self) -> None:
        """Waits until everything that is read ahead is decoded."""
        with self._lock:
            if self._blocks is not None:
                self._blocks.wait()

    def close(self) -> None:
        """Ends reading ahead and frees the frames."""
        with self._lock:
            if self._blocks is not None:
                self._blocks.close()
            self._blocks = None

    def __del__(self) -> None:
        if self._blocks is not None:
            self.close()

    def _most_rows(self) -> int:
        """More rows than this no block needs."""
        return len(self) + 2 * (self.history + self.next_step) + 1

    def _expect(self, order: StreamOrder, numbers: list[BlockNumber]) -> None:
        """Holds the blocks of a step, and those that follow in free slots."""
        with self._lock:
            if self._blocks is None:
                return
            # An interleaved order announces the windows of a batch one by one before it gathers the
            # first of them: the blocks of all of them have to stay.
            announced = dict.fromkeys([*self._announced, *numbers])
            self._announced = list(announced)[-SLOTS:]
            ahead = list(self._announced)
            while len(ahead) < SLOTS:
                ahead.append(order.after(ahead[-1]))
            self._blocks.hold(ahead, order.block)

    def _images(self, frame_BT: np.ndarray) -> dict[str, Tensor]:
        """camera -> uint8 (B, T, H, W, 3), out of the held blocks where they have the windows."""
        first_B = frame_BT.min(1)
        last_B = frame_BT.max(1)
        with self._lock:
            if self._blocks is None:
                return self._decoded_on_demand(frame_BT)
            row_B, found_B = self._blocks.rows_of(first_B, last_B)
            self._announced = []
            row_BT = row_B[:, None] + frame_BT - first_B[:, None]
            frames = self._blocks.frames
            if found_B.all():
                return {camera: self._gather(rows, row_BT) for camera, rows in frames.items()}
            images = self._decoded_on_demand(frame_BT[~found_B])
            for camera, rows in frames.items():
                whole = torch.empty((*frame_BT.shape, *rows.shape[1:]), dtype=torch.uint8)
                whole[torch.from_numpy(found_B)] = torch.from_numpy(rows[row_BT[found_B]])
                whole[torch.from_numpy(~found_B)] = images[camera]
                images[camera] = whole
            return images

    def _decoded_on_demand(self, frame_BT: np.ndarray) -> dict[str, Tensor]:
        first_B = frame_BT.min(1)
        count_B = frame_BT.max(1) - first_B + 1
        # a window lies in one episode, whose frames follow each other in the dataset too
        dataset_first_B = self._dataset_frame[first_B]
        windows = self._on_demand.read(zip(dataset_first_B.tolist(), count_B.tolist(), strict=True))
        row_BT = frame_BT - first_B[:, None]
        images = {}
        for camera in self.cameras:
            # padded steps repeat a frame: they index the same row again
            parts = [window[camera][row_T] for window, row_T in zip(windows, row_BT, strict=True)]
            images[camera] = torch.from_numpy(np.stack(parts))
        return images


__all__ = ["StreamedWindows"]
