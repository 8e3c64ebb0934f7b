"""What all commands share: the console, kinds of arguments, errors and remarks in one line each."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape as escape  # of texts that come in: brackets would be read as styles

from vla.common.busy import busy_remark, cpu_load
from vla.common.errors import Notice, UserError
from vla.common.foreign.checksums import EditedFileWarning
from vla.common.machine_faults import machine_fault, refusal
from vla.common.paths import expanded_path
from vla.common.renamed import RenamedWarning
from vla.common.terminal.consoles import output_console
from vla.common.terminal.visible_console import VisibleConsole, visible

if TYPE_CHECKING:
    from vla.common.progress import ProgressCallback
    from vla.data.format import KeyMap

console = output_console()
errors = VisibleConsole(stderr=True, highlight=False, soft_wrap=True)
_KEY = re.compile(r"(data\.)?keys\.")
"""What may stand before a key of a dataset."""
# package that an import misses -> the extra of vla that brings it
_EXTRA_OF = (
    dict.fromkeys(("gymnasium", "metaworld", "mujoco", "scipy"), "sim")
    | dict.fromkeys(("google", "google_crc32c"), "rlds")
    | dict.fromkeys(("onnx", "onnxruntime", "onnxscript"), "export")
    | {"h5py": "hdf5", "rerun": "rerun", "tensorboard": "train"}
    | dict.fromkeys(("msgpack", "websockets"), "serve")
    | {"zmq": "groot"}
    | dict.fromkeys(("stable_baselines3", "sb3_contrib"), "experts")
)


def path(text: str | Path) -> Path:
    """A path of the command line: typer calls it by this function's name.

    Raises BadParameter if it names a variable that is not set.
    """
    # defaults come as paths
    try:
        return Path(expanded_path(str(text)))
    except UserError as error:
        # a ValueError would be shown without its message
        raise typer.BadParameter(str(error)) from None


def path_argument(help: str) -> Any:
    """An argument that is a path; `~` and variables in it are expanded, as in configs."""
    return typer.Argument(help=help, parser=path)


def path_option(help: str, *names: str) -> Any:
    """An option that is a path; of `--out=~/runs` the shell expands nothing.

    Args:
        names: of the option; that of its parameter by default.
    """
    return typer.Option(*names, help=help, parser=path)


ConfigFile = Annotated[
    Path, path_argument("YAML file: one config, or sections `collect`, `train`, `expert`, `eval`.")
]
Dataset = Annotated[
    Path, path_argument("Dataset folder, or its file, or a URL such as hf://datasets/USER/NAME.")
]
KeySettings = Annotated[
    list[str] | None,
    typer.Argument(
        help="What is read as what: `cameras.front=KEY`, `cameras={}`, `control_hz=5`.",
    ),
]
Format = Annotated[
    str | None, typer.Option(help="Its format (`vla list formats`); found by itself otherwise.")
]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Dotted overrides, for example `policy.history=4`.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run stopped.")]


@contextlib.contextmanager
def clear_errors() -> Iterator[None]:
    """A user's mistake is one line each and exit status 2; Ctrl-C is status 130; no traceback.

    Former names, and what is odd in a dataset, are remarked on in one line each.
    """
    try:
        with _remarks():
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
    except Exception as error:
        # libraries have classes of their own for what the system refuses
        text = machine_fault(error) or refusal(error)
        if text is None:
            # a bug
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
def _remarks() -> Iterator[None]:
    """Prints our own warnings as one line each; by itself Python adds a file and a line of ours."""
    with warnings.catch_warnings():
        # each is issued once; Python's own filter would count by place
        warnings.simplefilter("always", RenamedWarning)
        warnings.simplefilter("always", Notice)
        show_other = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *place: Any) -> None:
            if issubclass(category, RenamedWarning | EditedFileWarning):
                errors.print(f"[yellow]note:[/] {escape(str(message))}")
            elif issubclass(category, Notice):
                errors.print(f"[yellow]warning:[/] {escape(str(message))}")
            else:
                show_other(visible(str(message)), category, *place)

        warnings.showwarning = show  # type: ignore[assignment]  # the places pass through
        yield


def shown_progress(label: str) -> AbstractContextManager[ProgressCallback]:
    """A bar on a terminal; plain lines every half minute if the output goes to a file."""
    from vla.common.progress import progress_bar

    # with the errors: standard output is for what scripts read
    return progress_bar(label, console=errors, transient=True)


def is_key(text: str) -> bool:
    """Whether `KEY=VALUE` sets what of a dataset is read as what."""
    return bool(_KEY.match(text))


def dataset_keys(settings: Iterable[str] | None) -> KeyMap | None:
    """`KEY=VALUE` texts as a KeyMap; None without any: a format then finds its keys by itself.

    `keys.` and `data.keys.` may stand before a key, as configs of training have them.

    Raises ConfigError if a key is unknown or a value wrong.
    """
    if not settings:
        return None
    from vla.config import ConfigError, load_config
    from vla.data.format import KeyMap

    for text in settings:
        # most often a second path: where a command writes to is an option, or stands before
        if "=" not in text:
            raise ConfigError([f"{text}: expected KEY=VALUE, for example control_hz=5"])
    return load_config(KeyMap, {}, [_KEY.sub("", text, count=1) for text in settings])


def print_notes(notes: Iterable[str]) -> None:
    """What the user should know of what was written: to standard error, so that a script may read
    the last line."""
    for note in notes:
        errors.print(f"[yellow]note:[/] {escape(note)}")


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
