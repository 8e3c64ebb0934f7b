"""One camera's decoded frames in a file: built once for all, checksummed, resumed after a kill.

    BASE/frames-NAME/           a finished cache; it appears by one rename. NAME ends in the size
                                of the images if that is not the stored one
        frames.bin              uint8 (R, H, W, 3)
        key.json                of which dataset; checksums of the blocks, and a quick one of all
    BASE/frames-NAME.building/  the same while it is made
        plan.json               of which dataset
        journal.jsonl           a line for each finished block: its first row, its checksum
    BASE/frames-NAME.lock       held by the process that builds

A block is written before its line in the journal. Nothing relies on that order, so nothing is
synced on the way: whoever resumes trusts a line only if the block has its checksum.

R: rows of the cache, H and W: image height and width.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import shutil
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from vla.common.atomic import move_folder, write_json
from vla.common.foreign.json_files import read_json
from vla.common.progress import ProgressCallback
from vla.data.errors import DataError
from vla.data.loading.decoding import PIECE_FRAMES, Advance, Block, each_block, fill, plan_blocks
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
        self.dataset = dataset
        self.camera = camera
        self.shape = (dataset.num_frames, *dataset.spec.cameras[camera], 3)
        read_as = _read_as(dataset)
        self.key: dict[str, Any] = {
            "version": _VERSION,
            "camera": camera,
            "shape": list(self.shape),
            "format": type(dataset.reader).__name__,
            "keys": read_as,
            "dataset": dataset.fingerprint(),
        }
        # without the fingerprint: the cache of a changed dataset is replaced, not left beside
        text = json.dumps([camera, read_as, owner], sort_keys=True)
        name = f"frames-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        # a cache for each size that policies see, the whole images under the name without one
        self.whole = name
        size = dataset.image_sizes.get(camera)
        if size is not None:
            self.key["size"] = str(size)
            name += f"-{size}"
        self.folder = base / name
        self.building = base / f"{name}.building"
        self._lock = base / f"{name}.lock"

    @property
    def num_bytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def _frame_bytes(self) -> int:
        return int(np.prod(self.shape[1:]))

    def fresh(self) -> bool:
        """Whether a finished cache of this very dataset is here, as far as a quick look shows."""
        stored = self._stored()
        if stored is None:
            return False
        try:
            sample = sampled_checksum(self.folder / "frames.bin")
        except OSError:
            return False
        return stored.get("sample") == sample

    def missing_bytes(self) -> int:
        """What the disk must still hold for this cache."""
        if self.fresh():
            return 0
        try:
            begun = (self.building / "frames.bin").stat()
        except OSError:
            return self.num_bytes
        # not its size, which is full from the start: the file is sparse (Windows counts no blocks)
        written = getattr(begun, "st_blocks", 0) * 512
        return max(0, self.num_bytes - written)

    def frames(
        self,
        progress: ProgressCallback | None = None,
        *,
        threads: int | None = None,
    ) -> np.ndarray:
        """uint8 (R, H, W, 3), mapped from the file; decoded first if it is not fresh.

        If another process is decoding it, waits for that one, and goes on with what it left if it
        is killed.

        Raises:
            DataError: an image is damaged, or the disk is full or not writable; what was finished
                is kept.
        """
        if not self.fresh():
            with self._locked(progress):
                # again: while this process waited, another may have built it
                if not self.fresh():
                    self._build(progress, threads)
        return np.asarray(np.memmap(self.folder / "frames.bin", np.uint8, "r", shape=self.shape))

    def damage(self) -> list[str]:
        """Reads every byte of the finished cache: one sentence for each damaged block."""
        stored = self._stored()
        file = self.folder / "frames.bin"
        key_file = self.folder / "key.json"
        remedy = f"delete {self.folder}, and it is made again from the dataset"
        if stored is None:
            return [f"{key_file}: is damaged, or of another dataset than this; {remedy}"]
        try:
            size = file.stat().st_size
            if size != self.num_bytes:
                return [f"{file}: has {size} bytes, expected {self.num_bytes}; {remedy}"]
            found = []
            rows = 0
            for row, count, checksum in stored["blocks"]:
                rows += count
                if self._checksum(file, row, count) != checksum:
                    found.append(
                        f"{file}: frames {row} to {row + count - 1} of camera {self.camera!r} are "
                        f"not what was written; {remedy}"
                    )
            # whole blocks with a wrong sample, or rows without a block: key.json itself is damaged
            if rows != self.shape[0] or not (found or self.fresh()):
                found.append(f"{key_file}: its checksums contradict each other; {remedy}")
            return found
        except (OSError, LookupError, TypeError, ValueError) as error:
            return [f"{self.folder}: cannot be read: {error}; {remedy}"]

    # --- building -------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _locked(self, progress: ProgressCallback | None) -> Iterator[None]:
        """The right to build, with errors of the disk as DataError."""
        # the system's lock, not a file that exists: a killed process leaves none behind
        lock = FileLock(self._lock)
        lock.acquire(None if progress is None else self._reporter(progress))
        try:
            yield
        except OSError as error:
            base = self.folder.parent
            if error.errno != errno.ENOSPC:
                raise _not_writable(base, error) from error
            raise not_enough(base, self.missing_bytes(), free_bytes(base)) from error
        finally:
            lock.release()

    def _build(self, progress: ProgressCallback | None, threads: int | None) -> None:
        """Decodes what is not finished yet, and puts the whole in its place. The lock is held."""
        shutil.rmtree(self.folder, ignore_errors=True)
        known = self._begun_build()
        file = self.building / "frames.bin"
        blocks = self._blocks()
        with open(file, "ab") as handle:
            handle.truncate(self.num_bytes)  # the full size at once: threads write at their places
        with open(self.building / "journal.jsonl", "a") as journal:
            if journal.tell():
                journal.write("\n")  # the last line may lack its end
            checksums = self._decode_blocks(blocks, file, journal, known, progress, threads)
        if self.dataset.fingerprint() != self.key["dataset"]:
            raise DataError(
                f"{self.dataset.root}: changed while its frames were decoded; run again when it is "
                "finished"
            )
        of_blocks = [[block.row, len(block), checksums[block.row]] for block in blocks]
        sample = sampled_checksum(file)
        write_json(self.building / "key.json", {**self.key, "sample": sample, "blocks": of_blocks})
        move_folder(self.building, self.folder)
        for name in ("plan.json", "journal.jsonl"):
            (self.folder / name).unlink()

    def _decode_blocks(
        self,
        blocks: Sequence[Block],
        file: Path,
        journal: TextIO,
        known: dict[int, int],
        progress: ProgressCallback | None,
        threads: int | None,
    ) -> dict[int, int]:
        """Decodes the blocks that are not in the file yet: first row -> checksum of each block.

        Args:
            known: the same of the blocks that a killed build has finished, as its journal says.
        """
        checksums: dict[int, int] = {}
        lock = threading.Lock()

        def work(block: Block, advance: Advance) -> None:
            checksum = known.get(block.row)
            # read again: its line may have reached the disk, and the block not
            if checksum is not None and checksum == self._checksum(file, block.row, len(block)):
                advance(len(block))
            else:
                checksum = self._decode(block, file, advance)
                with lock:
                    journal.write(json.dumps([block.row, checksum]) + "\n")
                    journal.flush()
            checksums[block.row] = checksum

        each_block(work, blocks, threads=threads, progress=progress)
        return checksums

    def _begun_build(self) -> dict[int, int]:
        """Makes the folder of the build, or finds what a killed one has finished.

        Returns first row -> checksum of each block that is finished.
        """
        try:
            if read_json(self.building / "plan.json") == self.key:
                return self._journal()
        except (OSError, ValueError):
            pass
        # of another dataset, or of this one before it changed
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

    def _decode(self, block: Block, file: Path, advance: Advance) -> int:
        """Decodes a block into its place in the file, a few MiB at a time. Returns its checksum."""
        piece = min(len(block), PIECE_FRAMES, max(1, _PIECE_BYTES // self._frame_bytes))
        buffer = np.empty((piece, *self.shape[1:]), np.uint8)
        stream = iter(self.dataset.images(self.camera, block.start, block.stop))
        checksum = 0
        with open(file, "r+b", buffering=0) as handle:
            handle.seek(block.row * self._frame_bytes)
            for frame in range(block.start, block.stop, piece):
                part = buffer[: block.stop - frame]
                fill(stream, self.dataset, self.camera, frame, part)
                unwritten = part.data.cast("B")
                checksum = zlib.crc32(unwritten, checksum)
                # a write may take less than it is given
                while unwritten:
                    written = handle.write(unwritten)
                    unwritten = unwritten[written:]
                advance(len(part))
        return checksum

    def _checksum(self, file: Path, row: int, count: int) -> int:
        """Of `count` rows as they lie in the file; of less if the file ends before."""
        left = count * self._frame_bytes
        checksum = 0
        with open(file, "rb", buffering=0) as handle:
            handle.seek(row * self._frame_bytes)
            while left:
                piece = handle.read(min(left, _PIECE_BYTES))
                if not piece:
                    break
                checksum = zlib.crc32(piece, checksum)
                left -= len(piece)
        return checksum

    def _blocks(self) -> list[Block]:
        table = self.dataset.episodes
        starts = table["first_frame"].to_numpy()
        stops = starts + table["length"].to_numpy()
        ranges = list(zip(starts.tolist(), stops.tolist(), strict=True))
        return plan_blocks(ranges, self._frame_bytes)

    def _reporter(self, progress: ProgressCallback) -> Callable[[], None]:
        """What a process calls while it waits: it reports how far the one that builds is."""
        sizes = {block.row: len(block) for block in self._blocks()}
        reported = 0

        def report() -> None:
            nonlocal reported
            done = sum(sizes.get(row, 0) for row in self._journal())
            if done > reported:
                reported = done
                progress(done, self.shape[0])

        return report

    def _stored(self) -> dict[str, Any] | None:
        """The finished cache's key if it is that of this dataset."""
        try:
            stored = read_json(self.folder / "key.json")
            return stored if self.key.items() <= stored.items() else None
        except (OSError, ValueError, AttributeError, TypeError):
            return None


def _read_as(dataset: EpisodeDataset) -> dict[str, Any]:
    """What of the dataset is read as images: it decides which these are as much as the files."""
    keys = dataset.reader.keys
    if keys is None:
        return {}
    # without defaults: a key that is added later must not give all caches other names
    read_as: dict[str, Any] = keys.model_dump(
        mode="json",
        include={"cameras", "split", "orientation", "colours"},
        exclude_defaults=True,
    )
    return read_as


def check_space(caches: Sequence[CameraCache], base: Path, free: int | None = None) -> None:
    """Raises DataError before anything is decoded if the disk does not hold what is missing.

    Args:
        free: bytes; of the disk by default.
    """
    needed = sum(cache.missing_bytes() for cache in caches)
    available = free_bytes(base) if free is None else free
    if needed > available:
        raise not_enough(base, needed, available)


def free_bytes(base: Path) -> int:
    """Free bytes where `base` lies or is to lie."""
    nearest = next(folder for folder in (base, *base.absolute().parents) if folder.exists())
    return shutil.disk_usage(nearest).free


def not_enough(base: Path, needed: int, free: int) -> DataError:
    return DataError(
        f"{base}: decoded frames need {needed / 2**30:.2f} GiB ({needed} bytes), "
        f"{free / 2**30:.2f} GiB ({free} bytes) are free there; make room, use another cache "
        "folder, or choose fewer episodes with cache='ram'"
    )


def make_base(base: Path) -> None:
    """Raises DataError if the folder of caches cannot be made."""
    try:
        base.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_writable(base, error) from error


def sampled_checksum(path: Path) -> str:
    """Of the size and of 64 pieces all over the file: finds foreign content in milliseconds."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        for place in np.linspace(0, max(0, size - 4096), 64).astype(np.int64):
            file.seek(int(place))
            digest.update(file.read(4096))
    return digest.hexdigest()


def _not_writable(base: Path, error: OSError) -> DataError:
    return DataError(
        f"{base}: decoded frames cannot be kept here: {error.strerror or error}; use another cache "
        "folder, or cache='ram'"
    )
