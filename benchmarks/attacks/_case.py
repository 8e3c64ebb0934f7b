"""What a file of this folder holds, and how the outcome of one of its inputs is judged.

A file is a kind. It defines

- `COUNT`, how many inputs a whole run takes;
- `warm()`, which reads something harmless, so that imports are no part of an input's time;
- `case(rng, folder) -> Case`, which writes one input into the empty folder and says how it is read. All chance comes from
  `rng`, so that an input can be made again.

Inputs may hold the path of `mark(folder)`: code that runs writes there; and that of `secret(folder)`, a file outside of what
is named, whose content must not come back.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import pickle
import random
import shutil
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

SECRET = "dies bleibt geheim 7c1f"


class Anything:
    """For `Case.harmless`: whatever comes out without an error is right."""


ANYTHING = Anything()


@dataclass(frozen=True)
class Case:
    """One hostile input.

    Attributes:
        what: in words.
        read: reads it, and gives what came out.
        harmless: what comes out of the input without the harm in it; something else, without a warning, is a change in
            silence.
        check: a sentence on what is wrong with what came out; empty if nothing is.
    """

    what: str
    read: Callable[[], Any]
    harmless: Any = ANYTHING
    check: Callable[[Any], str] = lambda found: ""


def kinds() -> list[str]:
    """Names of the files."""
    return sorted(p.stem for p in Path(__file__).parent.glob("*.py") if not p.stem.startswith("_"))


def load(kind: str) -> ModuleType:
    return importlib.import_module(f"attacks.{kind}")


def mark(folder: Path) -> Path:
    """What code that ran has written."""
    return folder.with_name("mark")


def secret(folder: Path) -> Path:
    """A file that no input may bring out."""
    return folder.with_name("secret.txt")


def prepare(kind: str, seed: int, number: int, folder: Path) -> Case:
    """The input of this number, in the folder."""
    for path in (folder, mark(folder)):
        shutil.rmtree(path, ignore_errors=True)
    mark(folder).mkdir(parents=True)
    folder.mkdir(parents=True)
    secret(folder).write_text(SECRET * 20)
    return load(kind).case(random.Random(f"{kind} {seed} {number}"), folder)


def judge(case: Case, folder: Path) -> tuple[str, str]:
    """The outcome of one input, and a sentence on it."""
    from vla.common.errors import UserError

    output = io.StringIO()
    found: Any = None
    with _watched(output) as remarks:
        try:
            found = case.read()
        except UserError as error:
            outcome, text = "refused", str(error)
        except OSError as error:
            # the command line has a sentence for these, if they name a file
            outcome, text = ("refused" if error.filename else "traceback"), repr(error)
        except (Exception, SystemExit) as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            outcome = "traceback"
            text = f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})"
        else:
            outcome, text = _changed(case, found, remarks)
    written = output.getvalue()
    if any(mark(folder).iterdir()):
        outcome = "code"
    elif SECRET in written + text + repr(found):
        outcome = "outside"
    return outcome, f"{case.what}: {' '.join(text.split())[:300]}"


def _changed(case: Case, found: Any, remarks: list[Any]) -> tuple[str, str]:
    wrong = case.check(found)
    if wrong:
        return "silent", wrong
    if case.harmless is ANYTHING or _equal(found, case.harmless):
        return "same", "as without the harm in it"
    if remarks:
        return "warned", str(remarks[0].message)
    return "silent", f"gives {str(found)[:100]}, expected {str(case.harmless)[:100]}"


def _equal(found: Any, harmless: Any) -> bool:
    # to the byte: of arrays `==` is an array
    return pickle.dumps(found) == pickle.dumps(harmless)


@contextlib.contextmanager
def _watched(output: io.StringIO) -> Iterator[list[Any]]:
    """Gathers what is printed and warned of; a question is answered by yes, as an eager user would."""
    with (
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(output),
        warnings.catch_warnings(record=True) as remarks,
    ):
        warnings.simplefilter("always", FutureWarning)
        import builtins

        question = builtins.input
        builtins.input = lambda *_: "y"
        try:
            yield remarks
        finally:
            builtins.input = question
