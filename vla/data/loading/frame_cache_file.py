"""One camera's decoded frames in a file: built by one process for all, checksummed, and never begun anew after a kill.

    BASE/frames-NAME/           a finished cache; it appears by one rename
        frames.bin              uint8 (R, H, W, 3)
        key.json                of which dataset, a checksum of each block, one of the whole that is quick to check
    BASE/frames-NAME.building/  the same while it is made
        plan.json               of which dataset
        journal.jsonl           a line for each finished block: its first row, its checksum
    BASE/frames-NAME.lock       held by the process that builds

A block is written before its line in the journal. Nothing rests on that order, so nothing is synced on the way: whoever
resumes trusts a line only where the block has its checksum.

R: rows of the cache, H and W: image height and width.
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import threading
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vla.common.atomic import move_folder, write_json
from vla.common.progress import ProgressCallback
from vla.data.errors import DataError
from vla.data.loading.decoding import Block, each_block, fill, plan_blocks
from vla.data.reader import EpisodeDataset
from vla.data.storage.file_lock import FileLock

_VERSION = 2
_PIECE_BYTES = 4 * 2**20


class CameraCache:
    """Where the frames of one camera of a whole dataset lie.

    Args:
        dataset: where the images are.
        camera: which of them.
        base: folder of caches.
        owner: distinguishes datasets that keep their caches in one folder.
    """

    def __init__(self, dataset: EpisodeDataset, camera: str, base: Path, owner: str = "") -> None:
        self.dataset, self.camera = dataset, camera
        self.shape = (dataset.num_frames, *dataset.spec.cameras[camera], 3)
        # what is read as what decides which pictures these are, as much as the files do
        keys = dataset.reader.keys
        read_as = (
            {}
            if keys is None
            else keys.model_dump(mode="json", include={"cameras", "split"}, exclude_none=True)
        )
        self.key: dict[str, Any] = {
            "version": _VERSION,
            "camera": camera,
            "shape": list(self.shape),
            "format": type(dataset.reader).__name__,
            "keys": read_as,
            "dataset": dataset.fingerprint(),
        }
        name = hashlib.sha256(
            json.dumps([camera, read_as, owner], sort_keys=True).encode()
        ).hexdigest()[:12]
        self.folder = base / f"frames-{name}"
        self.building = base / f"frames-{name}.building"
        self._lock = base / f"frames-{name}.lock"

    @property
    def num_bytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    def fresh(self) -> bool:
        """Whether a finished cache of this very dataset is here and is whole as far as a quick look shows."""
        stored = self._stored()
        try:
            return stored is not None and stored.get("sample") == sampled_checksum(
                self.folder / "frames.bin"
            )
        except OSError:
            return False

    def missing_bytes(self) -> int:
        """What the disk must still hold for this cache."""
        if self.fresh():
            return 0
        try:
            begun = (self.building / "frames.bin").stat()
        except OSError:
            return self.num_bytes
        return max(0, self.num_bytes - getattr(begun, "st_blocks", 0) * 512)

    def frames(
        self, progress: ProgressCallback | None = None, *, threads: int | None = None
    ) -> np.ndarray:
        """uint8 (R, H, W, 3), mapped from the file; decoded first where there is no cache of this very dataset.

        Where another process is decoding it, waits for that one, and goes on with what it left if it is killed.

        Raises:
            DataError: an image is damaged, or the disk is full or not writable; what was finished is kept.
        """
        if not self.fresh():
            lock = FileLock(self._lock)
            lock.acquire(None if progress is None else self._tell(progress))
            try:
                if not self.fresh():
                    self._build(progress, threads)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise _not_writable(self.folder.parent, error) from error
                raise not_enough(
                    self.folder.parent, self.missing_bytes(), free_bytes(self.folder.parent)
                ) from error
            finally:
                lock.release()
        return np.asarray(np.memmap(self.folder / "frames.bin", np.uint8, "r", shape=self.shape))

    def damage(self) -> list[str]:
        """Reads every byte of the finished cache -> one sentence for each block that is not what was written."""
        stored, file = self._stored(), self.folder / "frames.bin"
        remedy = f"delete {self.folder}, and it is made again from the dataset"
        if stored is None:
            return [
                f"{self.folder / 'key.json'}: is damaged, or of another dataset than this; {remedy}"
            ]
        try:
            size = file.stat().st_size
            if size != self.num_bytes:
                return [f"{file}: has {size} bytes, expected {self.num_bytes}; {remedy}"]
            found = [
                f"{file}: frames {row} to {row + count - 1} of camera {self.camera!r} are not what was written; {remedy}"
                for row, count, checksum in stored["blocks"]
                if self._checksum(file, row, count) != checksum
            ]
            if sum(count for _, count, _ in stored["blocks"]) != self.shape[0] or not (
                found or self.fresh()
            ):
                found.append(
                    f"{self.folder / 'key.json'}: its checksums contradict each other; {remedy}"
                )
            return found
        except (OSError, LookupError, TypeError, ValueError) as error:
            return [f"{self.folder}: cannot be read: {error}; {remedy}"]

    # --- building -----------------------------------------------------------------------------------

    def _build(self, progress: ProgressCallback | None, threads: int | None) -> None:
        """Decodes what is not finished yet, and puts the whole in its place. The lock is held."""
        shutil.rmtree(self.folder, ignore_errors=True)
        known = self._take_up()
        file, blocks = self.building / "frames.bin", self._blocks()
        with open(file, "ab") as handle:
            handle.truncate(self.num_bytes)
        checksums: dict[int, int] = {}
        lock = threading.Lock()
        with open(self.building / "journal.jsonl", "a") as journal:
            if journal.tell():
                journal.write("\n")  # the last line may lack its end

            def work(block: Block, advance: Callable[[int], None]) -> None:
                checksum = known.get(block.row)
                if checksum is None or checksum != self._checksum(file, block.row, len(block)):
                    checksum = self._decode(block, file, advance)
                    with lock:
                        journal.write(json.dumps([block.row, checksum]) + "\n")
                        journal.flush()
                else:
                    advance(len(block))
                checksums[block.row] = checksum

            each_block(work, blocks, threads=threads, progress=progress)
        if self.dataset.fingerprint() != self.key["dataset"]:
            raise DataError(
                f"{self.dataset.root}: changed while its frames were decoded; run again when it is finished"
            )
        of_blocks = [[block.row, len(block), checksums[block.row]] for block in blocks]
        write_json(
            self.building / "key.json",
            self.key | {"sample": sampled_checksum(file), "blocks": of_blocks},
        )
        move_folder(self.building, self.folder)
        for name in ("plan.json", "journal.jsonl"):
            (self.folder / name).unlink()

    def _take_up(self) -> dict[int, int]:
        """Makes the folder of the build, or finds what a killed one has finished: first row -> checksum of its block."""
        try:
            if json.loads((self.building / "plan.json").read_text()) == self.key:
                return self._journal()
        except (OSError, ValueError):
            pass
        shutil.rmtree(self.building, ignore_errors=True)
        self.building.mkdir(parents=True)
        write_json(self.building / "plan.json", self.key)
        return {}

    def _journal(self) -> dict[int, int]:
        """Finished blocks by what the journal says; a line that a kill has cut is none."""
        found: dict[int, int] = {}
        try:
            lines = (self.building / "journal.jsonl").read_bytes().splitlines()
        except OSError:
            return found
        for line in lines:
            try:
                row, checksum = json.loads(line)
                found[int(row)] = int(checksum)
            except (ValueError, TypeError):
                continue
        return found

    def _decode(self, block: Block, file: Path, advance: Callable[[int], None]) -> int:
        """Decodes a block into its place in the file, a few MiB at a time. Returns its checksum."""
        frame_bytes = int(np.prod(self.shape[1:]))
        buffer = np.empty(
            (min(len(block), max(1, _PIECE_BYTES // frame_bytes)), *self.shape[1:]), np.uint8
        )
        stream = iter(self.dataset.images(self.camera, block.start, block.stop))
        checksum = 0
        with open(file, "r+b", buffering=0) as handle:
            handle.seek(block.row * frame_bytes)
            for frame in range(block.start, block.stop, len(buffer)):
                part = buffer[: block.stop - frame]
                fill(stream, self.dataset, self.camera, frame, part)
                rest = part.data.cast("B")
                checksum = zlib.crc32(rest, checksum)
                while rest:
                    rest = rest[handle.write(rest) :]
                advance(len(part))
        return checksum

    def _checksum(self, file: Path, row: int, count: int) -> int:
        frame_bytes = int(np.prod(self.shape[1:]))
        left, checksum = count * frame_bytes, 0
        with open(file, "rb", buffering=0) as handle:
            handle.seek(row * frame_bytes)
            while left and (piece := handle.read(min(left, _PIECE_BYTES))):
                checksum = zlib.crc32(piece, checksum)
                left -= len(piece)
        return checksum

    def _blocks(self) -> list[Block]:
        table = self.dataset.episodes
        starts, lengths = table["first_frame"].to_numpy(), table["length"].to_numpy()
        ranges = [
            (int(start), int(start + length)) for start, length in zip(starts, lengths, strict=True)
        ]
        return plan_blocks(ranges, int(np.prod(self.shape[1:])))

    def _tell(self, progress: ProgressCallback) -> Callable[[], None]:
        """Tells how far the process is that holds the lock."""
        sizes = {block.row: len(block) for block in self._blocks()}
        told = 0

        def tell() -> None:
            nonlocal told
            done = sum(sizes.get(row, 0) for row in self._journal())
            if done > told:
                told = done
                progress(done, self.shape[0])

        return tell

    def _stored(self) -> dict[str, Any] | None:
        """The finished cache's key where it is that of this dataset."""
        try:
            stored = json.loads((self.folder / "key.json").read_text())
            return stored if self.key.items() <= stored.items() else None
        except (OSError, ValueError, AttributeError, TypeError):
            return None


def check_space(caches: Sequence[CameraCache], base: Path, free: int | None = None) -> None:
    """Raises DataError before anything is decoded where the disk does not hold what is missing.

    Args:
        free: bytes; of the disk by default.
    """
    needed = sum(cache.missing_bytes() for cache in caches)
    available = free_bytes(base) if free is None else free
    if needed > available:
        raise not_enough(base, needed, available)


def free_bytes(base: Path) -> int:
    """Free bytes where `base` lies or is to lie."""
    there = next(folder for folder in (base, *base.absolute().parents) if folder.exists())
    return shutil.disk_usage(there).free


def not_enough(base: Path, needed: int, free: int) -> DataError:
    return DataError(
        f"{base}: decoded frames need {needed / 2**30:.2f} GiB ({needed} bytes), {free / 2**30:.2f} GiB ({free} bytes) are "
        "free there; make room, use another cache folder, or choose fewer episodes with cache='ram'"
    )


def make_base(base: Path) -> None:
    """Raises DataError where the folder of caches cannot be made."""
    try:
        base.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_writable(base, error) from error


def sampled_checksum(path: Path) -> str:
    """Of the size and of 64 pieces spread over the file: finds truncation and foreign content in milliseconds."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        for place in np.linspace(0, max(0, size - 4096), 64).astype(np.int64):
            file.seek(int(place))
            digest.update(file.read(4096))
    return digest.hexdigest()


def _not_writable(base: Path, error: OSError) -> DataError:
    return DataError(
        f"{base}: decoded frames cannot be kept here: {error.strerror or error}; use another cache folder, or cache='ram'"
    )
