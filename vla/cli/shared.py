"""What all commands share: the console, kinds of arguments, errors and remarks in one line each."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape as escape  # of texts that come in: brackets would be read as styles

from vla.cli.machine_faults import machine_fault
from vla.common.busy import busy_remark, cpu_load
from vla.common.checksums import EditedFileWarning
from vla.common.consoles import output_console
from vla.common.errors import UserError
from vla.common.renamed import RenamedWarning
from vla.common.visible_console import VisibleConsole, visible

if TYPE_CHECKING:
    from vla.common.progress import ProgressCallback

console = output_console()
errors = VisibleConsole(stderr=True, highlight=False, soft_wrap=True)
# package that an import misses -> the extra of vla that brings it
_EXTRA_OF = (
    dict.fromkeys(("gymnasium", "metaworld", "mujoco", "scipy"), "sim")
    | dict.fromkeys(("google", "google_crc32c"), "rlds")
    | {"h5py": "hdf5", "rerun": "rerun", "tensorboard": "train"}
)

ConfigFile = Annotated[
    Path, typer.Argument(help="YAML file: one config, or sections `collect`, `train`, `eval`.")
]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Dotted overrides, for example `policy.history=4`.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run stopped.")]


@contextlib.contextmanager
def clear_errors() -> Iterator[None]:
    """A user's mistake is one line each and exit status 2; Ctrl-C is status 130; no traceback.

    Former names are remarked on in one line each.
    """
    try:
        with _remarks_on_former_names():
            yield
    except UserError as error:
        # other line breaks than this one are shown as what they are
        for line in str(error).split("\n"):
            _print_error(line)
        raise typer.Exit(2) from None
    except ModuleNotFoundError as error:
        extra = _EXTRA_OF.get((error.name or "").split(".")[0])
        # any other missing module is a bug of ours, and needs its traceback
        if extra is None:
            raise
        _print_error(f"{error.name} is not installed: pip install 'vla[{extra}]'")
        raise typer.Exit(2) from None
    except (OSError, MemoryError, RuntimeError) as error:
        text = machine_fault(error)
        # else a path that is no folder or may not be written; what names no file is a bug
        if text is None and isinstance(error, OSError) and error.filename is not None:
            text = f"{error.filename}: {(error.strerror or str(error)).lower()}"
        if text is None:
            raise
        _print_error(text)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        errors.print("interrupted")
        # what shells report of a program that Ctrl-C has ended
        raise typer.Exit(130) from None


def remark_on_load() -> None:
    """One line if others use the machine's cores: what follows will be slow for no fault of its
    own."""
    remark = busy_remark(cpu_load())
    if remark is not None:
        errors.print(f"[yellow]note:[/] {remark}")


def _print_error(text: str) -> None:
    errors.print(f"[bold red]error:[/] {escape(text)}")


@contextlib.contextmanager
def _remarks_on_former_names() -> Iterator[None]:
    """Prints a `RenamedWarning` as one line; by itself Python adds a file and a line of ours."""
    with warnings.catch_warnings():
        # `announce_renamed` warns of each once; Python's own filter would count by place
        warnings.simplefilter("always", RenamedWarning)
        show_other = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *place: Any) -> None:
            if issubclass(category, RenamedWarning | EditedFileWarning):
                errors.print(f"[yellow]note:[/] {escape(str(message))}")
            else:
                show_other(visible(str(message)), category, *place)

        warnings.showwarning = show  # type: ignore[assignment]  # the places pass through
        yield


def shown_progress(label: str) -> AbstractContextManager[ProgressCallback]:
    """A bar on a terminal; plain lines every half minute if the output goes to a file."""
    from vla.common.progress import progress_bar

    # with the errors: standard output is for what scripts read
    return progress_bar(label, console=errors, transient=True)


def config_and_overrides(
    config: Path | None, overrides: list[str] | None
) -> tuple[Path | dict[str, Any], list[str]]:
    """Arguments of a command whose config file may be left out."""
    texts = list(overrides or [])
    if config is None:
        return {}, texts
    # the first override stands where the file would
    if "=" in str(config):
        return {}, [str(config), *texts]
    return config, texts
