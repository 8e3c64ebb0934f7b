"""The error of this room, and what the first bytes of a file say of why it cannot be read."""

from __future__ import annotations

from pathlib import Path

from vla.common.errors import DataWarning as DataWarning
from vla.common.errors import UserError
from vla.common.foreign.plain_files import why_not_plain


class DataError(UserError):
    """Data is missing, damaged or contradicts itself. The message names the place, the value and
    the remedy."""


class UniformRewardsError(DataError):
    """No reward, or no episode's return, differs from another: there is nothing to learn from
    them."""


_POINTER = b"version https://git-lfs.github.com/spec/"
_WEB_PAGE = (b"<!doctype html", b"<html")
_LOOKED_AT = 64  # bytes
_PACKAGE = Path(__file__).parents[1]


def is_lfs_pointer(data: bytes) -> bool:
    """Whether a file that begins with `data` stands for another one, which Git LFS keeps."""
    return data.startswith(_POINTER)


def unreadable(path: Path, problem: str) -> DataError:
    """The error for a file that its library cannot read.

    Args:
        path: of the file.
        problem: what is wrong and what to do, unless the file's first bytes say more: a pointer of
            Git LFS, a web page in the file's place, no bytes at all.
    """
    # A clone without Git LFS has a text of three lines in the place of each large file.
    start = first_bytes(path)
    if start is None:
        return DataError(f"{path}: {problem}")
    if is_lfs_pointer(start):
        return DataError(
            f"{path}: is a pointer of Git LFS, not the file itself: run `git lfs pull` in "
            f"{path.parent}"
        )
    if not start:
        return DataError(f"{path}: is empty (0 bytes); copy it from the dataset's source")
    if start.lstrip().lower().startswith(_WEB_PAGE):
        return DataError(
            f"{path}: is a web page, as a refused download leaves it; download the file itself"
        )
    return DataError(f"{path}: {problem}")


def first_bytes(path: Path) -> bytes | None:
    """The beginning of a file; None if it cannot be opened."""
    try:
        if why_not_plain(path):  # it would be waited for
            return None
        with open(path, "rb") as file:
            return file.read(_LOOKED_AT)
    except OSError:
        return None


def raised_here(error: BaseException) -> bool:
    """Whether an exception comes from a line of this package, not from inside a library."""
    trace = error.__traceback__
    if trace is None:
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    return Path(trace.tb_frame.f_code.co_filename).is_relative_to(_PACKAGE)
