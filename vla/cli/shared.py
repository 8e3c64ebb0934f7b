"""What all commands share: the console, kinds of arguments, and errors in one line."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from vla.config import UserError

console = Console()
_EXTRA_OF = (
    dict.fromkeys(("gymnasium", "metaworld", "mujoco", "scipy"), "sim")
    | dict.fromkeys(("google", "google_crc32c"), "rlds")
    | {"h5py": "hdf5", "rerun": "rerun", "tensorboard": "train"}
)
errors = Console(stderr=True, highlight=False, soft_wrap=True)

ConfigFile = Annotated[
    Path, typer.Argument(help="YAML file: one config, or sections `collect`, `train`, `eval`.")
]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Dotted overrides, for example `policy.history=4`.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run stopped.")]


@contextlib.contextmanager
def clear_errors() -> Iterator[None]:
    """A user's mistake is one line each and exit status 2; Ctrl-C is status 130; no traceback for either."""
    try:
        yield
    except UserError as error:
        for line in str(error).splitlines():
            errors.print(f"[bold red]error:[/] {escape(line)}")
        raise typer.Exit(2) from None
    except ModuleNotFoundError as error:
        extra = _EXTRA_OF.get((error.name or "").split(".")[0])
        if extra is None:
            raise
        errors.print(
            f"[bold red]error:[/] {error.name} is not installed: pip install 'vla\\[{extra}]'"
        )
        raise typer.Exit(2) from None
    except OSError as error:  # a path that is no folder, may not be written, or a full disk
        if error.filename is None and error.errno != errno.ENOSPC:
            raise
        where = "" if error.filename is None else f"{error.filename}: "
        errors.print(
            f"[bold red]error:[/] {escape(where + (error.strerror or str(error)).lower())}"
        )
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        errors.print("interrupted")
        raise typer.Exit(130) from None


def escape(text: str) -> str:
    return text.replace("[", r"\[")
