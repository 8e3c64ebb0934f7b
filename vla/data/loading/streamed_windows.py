"""Windows of data that is larger than memory: numbers stay in memory, frames come and go in shuffled blocks.

N: windows of the chosen episodes, B: windows in a batch, T: steps of a window, H and W: image height and width.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vla.data.loading.ranges import spans
from vla.data.loading.stream_frames import SLOTS, BlockFrames, LooseFrames
from vla.data.loading.stream_order import BlockNumber, StreamOrder
from vla.data.loading.windows import Windows
from vla.data.reader import EpisodeDataset
from vla.data.rewards import RewardConfig
from vla.types import Batch


class StreamedWindows(Windows):
    """`Windows` whose frames are decoded shortly before they are used.

    `order` gives the order of a training run, in which frames are read ahead by threads. Any other windows can be asked for
    too: theirs are decoded on demand, and kept while there is room (none beside an order).

    Args:
        dataset: where the episodes are.
        memory_gb: how much decoded frames may take, in GiB; numbers, stored bytes and batches come on top.
        decoders: threads that decode; by default one per core, shared among the processes of this machine.
        history, chunk, next_step, discount, rewards, episodes, cameras, threads, pin_memory: see `Windows`.

    Raises:
        DataError: see `Windows`; or the memory does not hold a few windows.
    """

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
        memory_gb: float = 4.0,
        decoders: int | None = None,
        threads: int = 1,
        pin_memory: bool = False,
    ) -> None:
        if memory_gb <= 0:
            raise ValueError(f"memory_gb is {memory_gb}; expected more than 0")
        super().__init__(
            dataset,
            history=history,
            chunk=chunk,
            next_step=next_step,
            discount=discount,
            rewards=rewards,
            episodes=episodes,
            cameras=[],
            threads=threads,
            pin_memory=pin_memory,
        )
        self.cameras = list(dataset.spec.cameras if cameras is None else cameras)
        self._decoders, self._memory = decoders, int(memory_gb * 2**30)
        self._frame_bytes = sum(
            h * w * 3 for h, w in (dataset.spec.cameras[camera] for camera in self.cameras)
        )
        first = dataset.episodes["first_frame"].to_numpy(np.int64)[self.episodes]
        self._dataset_frame = spans(first, self.lengths)
        self._loose = LooseFrames(dataset, self.cameras, room=self._memory)
        self._blocks: BlockFrames | None = None
        self._asked: list[BlockNumber] = []
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
        """Endless batches of indices of these windows, whose frames are read ahead: see `StreamOrder`. One at a time: a
        second one takes the place of the first. Raises DataError where the memory does not hold a few windows."""
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
        self._loose = LooseFrames(self.dataset, self.cameras, room=0)
        self._blocks = BlockFrames(
            self.dataset,
            self.cameras,
            rows=rows,
            dataset_frame=self._dataset_frame,
            threads=self._decoders,
        )
        return order

    def batch(self, indices: np.ndarray) -> Batch:
        """The windows `indices`, int (B,), as `Windows.batch` gives them."""
        batch = super().batch(indices)
        first_B = (
            np.asarray(indices, np.int64) - batch.timesteps[:, self.history - 1].numpy()
        )  # of the episode
        frame_BT = first_B[:, None] + batch.timesteps.numpy()
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
        if getattr(self, "_blocks", None) is not None:
            self.close()

    def _most_rows(self) -> int:
        """More rows than this no block needs."""
        return len(self) + 2 * (self.history + self.next_step) + 1

    def _expect(self, order: StreamOrder, numbers: list[BlockNumber]) -> None:
        with self._lock:
            if self._blocks is None:
                return
            # a mixture asks for the windows of a batch one by one before it wants the first of them
            self._asked = list(dict.fromkeys([*self._asked, *numbers]))[-SLOTS:]
            ahead = list(self._asked)
            while len(ahead) < SLOTS:
                ahead.append(order.after(ahead[-1]))
            self._blocks.hold(ahead, order.block)

    def _images(self, frame_BT: np.ndarray) -> dict[str, Tensor]:
        first_B, last_B = frame_BT.min(1), frame_BT.max(1)
        with self._lock:
            if self._blocks is None:
                return self._loose_images(frame_BT)
            row_B, found_B = self._blocks.rows_of(first_B, last_B)
            self._asked = []
            row_BT = row_B[:, None] + frame_BT - first_B[:, None]
            if found_B.all():
                return {
                    camera: self._gather(frames, row_BT)
                    for camera, frames in self._blocks.frames.items()
                }
            images = self._loose_images(frame_BT[~found_B])
            for camera, frames in self._blocks.frames.items():
                whole = torch.empty((*frame_BT.shape, *frames.shape[1:]), dtype=torch.uint8)
                whole[torch.from_numpy(found_B)] = torch.from_numpy(frames[row_BT[found_B]])
                whole[torch.from_numpy(~found_B)] = images[camera]
                images[camera] = whole
            return images

    def _loose_images(self, frame_BT: np.ndarray) -> dict[str, Tensor]:
        first_B, last_B = frame_BT.min(1), frame_BT.max(1)
        places = zip(
            self._dataset_frame[first_B].tolist(), (last_B - first_B + 1).tolist(), strict=True
        )
        found = self._loose.spans(places)
        return {
            camera: torch.from_numpy(
                np.stack(
                    [
                        window[camera][row_T]
                        for window, row_T in zip(found, frame_BT - first_B[:, None], strict=True)
                    ]
                )
            )
            for camera in self.cameras
        }
