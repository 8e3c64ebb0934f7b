"""The files of a checkpoint: their names, where a checkpoint lies, and what its header says."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from vla.common.errors import UserError
from vla.common.foreign.json_files import JsonError, read_json
from vla.common.foreign.plain_files import check_plain_file
from vla.common.foreign.pretrained import reach_hub
from vla.common.names import nearest
from vla.config import CONFIG_VERSION, ConfigError, lookup, validate

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
SPEC_FILE = "spec.json"
TOKENIZER_FILE = "tokenizer.json"

_HALVES = (torch.float16, torch.bfloat16)
_HELD_BY = {
    torch.float32: (torch.float32, *_HALVES),
    torch.float64: (torch.float64, torch.float32, *_HALVES),
}
"""Type -> types whose numbers it holds exactly; of any other type, its own alone."""
_REPOSITORY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*/[A-Za-z0-9_-][A-Za-z0-9._-]*")


class CheckpointError(UserError):
    """A checkpoint folder is missing, incomplete, damaged, or of another version or model."""


def find_checkpoint(path: str | Path, options: dict[str, Any]) -> Path:
    """The folder, or that of the downloaded repository; `options` are those of `snapshot_download`.

    Raises CheckpointError if there is neither.
    """
    if isinstance(path, str):
        # as datasets of the hub are named
        path = path.removeprefix("hf://")
    folder = Path(path)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise CheckpointError(
            f"{path}: is a file; name the folder that holds {CONFIG_FILE} and {WEIGHTS_FILE}"
        )
    hint = _nearest_folder(folder)
    # a misspelled local path must not become a question to the hub, so only USER/NAME is one
    if not isinstance(path, str) or not _REPOSITORY.fullmatch(path):
        raise CheckpointError(f"{path}: no such checkpoint folder{hint}")
    if not options.get("local_files_only"):
        options = options | reach_hub(path, "a policy")
    try:
        return Path(snapshot_download(path, **options))
    except Exception as error:  # the hub raises many kinds
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"{path}: no such checkpoint folder{hint}, and no repository of the Hugging Face hub "
            f"within reach: {reason}"
        ) from error


def require_files(folder: Path, names: list[str]) -> None:
    """Raises CheckpointError if one of the files is missing."""
    missing = [name for name in names if not (folder / name).is_file()]
    if not missing:
        return
    hint = ""
    # a run directory is easily taken for the checkpoint that lies in it
    if (folder / "policy" / CONFIG_FILE).is_file():
        hint = f"; did you mean {folder / 'policy'}?"
    # what is written by vla.export, a room above this one
    if (folder / "export.json").is_file():
        hint = "; it is an exported policy, which `vla eval` plays and vla.export.load reads"
    raise CheckpointError(f"{folder}: no complete checkpoint, it lacks {', '.join(missing)}{hint}")


def read_header(path: Path) -> dict[str, Any]:
    """What `config.json` holds: version, type, config, card.

    Raises CheckpointError if the file is no header, or one of another format version.
    """
    try:
        header = read_json(path)
    except JsonError as error:
        raise CheckpointError(str(error)) from error
    # models of other libraries have a file of this name too
    if not isinstance(header, dict) or not {"version", "type", "config"} <= set(header):
        raise CheckpointError(
            f"{path}: not a policy's config: expected the keys version, type and config"
        )
    for key, kind in (("type", str), ("config", dict), ("card", dict)):
        if key in header and not isinstance(header[key], kind):
            raise CheckpointError(
                f"{path}: {key} is {type(header[key]).__name__}, expected {kind.__name__}"
            )
    if header["version"] != CONFIG_VERSION:
        raise CheckpointError(
            f"{path}: written in format version {header['version']!r}, this vla reads version "
            f"{CONFIG_VERSION}: install the vla that wrote it"
        )
    return header


def stored_values(name: str, values: dict[str, Any]) -> dict[str, Any]:
    """The values of a stored policy config, with what keys that are younger than it stand for.

    Args:
        name: the registered name of the policy.
        values: as they are stored; a policy inside another one lies under `policy`.

    Raises KeyError if there is no such policy.
    """
    # not the defaults of today: an old checkpoint goes on acting as it was trained to
    former: dict[str, Any] = getattr(lookup("policies", name), "former_defaults", {})
    filled = former | values
    inside = values.get("policy")
    if isinstance(inside, dict) and "type" in inside:
        filled["policy"] = stored_values(str(inside["type"]), inside)
    return filled


def read_shapes(path: Path) -> dict[str, list[int]]:
    """Name -> shape of the tensors of a safetensors file; its numbers are not read.

    Raises CheckpointError if the file is unreadable.
    """
    try:
        check_plain_file(path)
        with safe_open(path, "pt") as file:
            return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from error


def read_tensors(
    path: Path,
    expected: dict[str, Tensor],
    complete: Callable[[dict[str, Tensor]], None] | None = None,
) -> dict[str, Tensor]:
    """The tensors of a safetensors file, which have the names and shapes of `expected`.

    `complete` adds to them, before they are compared, what files of former versions lack.

    Raises CheckpointError if the file is unreadable, or tensors are missing, unknown, of other
    shapes or types, or hold NaN or infinity.
    """
    try:
        check_plain_file(path)
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from error
    if complete is not None:
        complete(found)
    # all of it, not the first fault: what is missing and what is unknown together show a rename
    shared = [name for name in expected if name in found]
    problems = {
        "lacks": [name for name in expected if name not in found],
        "has unknown": [name for name in found if name not in expected],
        "has other shapes for": [
            name for name in shared if expected[name].shape != found[name].shape
        ],
    }
    lines = [
        f"{verb} {len(names)} tensors (first {names[0]!r})"
        for verb, names in problems.items()
        if names
    ]
    if lines:
        raise CheckpointError(
            f"{path}: {', '.join(lines)}; the file belongs to another model or configuration"
        )
    for name in expected:
        _check_numbers(path, name, found[name], expected[name].dtype)
    return found


def _check_numbers(path: Path, name: str, tensor: Tensor, dtype: torch.dtype) -> None:
    """Raises CheckpointError if the tensor is not exactly what one of this type can hold."""
    if tensor.dtype not in _HELD_BY.get(dtype, (dtype,)):
        raise CheckpointError(
            f"{path}: {name!r} holds {tensor.dtype}, expected {dtype}: other numbers would come "
            "out; copy the checkpoint again"
        )
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        raise CheckpointError(
            f"{path}: {name!r} holds NaN or infinity: it is damaged, or its training diverged; "
            "copy the checkpoint again, or take an earlier one"
        )


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{path}: not a readable safetensors file ({error}); it is truncated or foreign: "
        "copy the checkpoint again"
    )


def checked_device(device: torch.device | str) -> torch.device:
    """Raises UserError if torch does not know the device, or this machine has none."""
    available = ["cpu"]
    available += [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        available.append("mps")
    has = ", ".join(available)
    try:
        wanted = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise UserError(f"device: torch knows no {device!r}; this machine has: {has}") from error
    # `cuda` without a number is the first GPU; other kinds of devices are left to torch
    names = (str(wanted), f"{wanted}:0")
    if wanted.type in ("cuda", "mps") and not any(name in names for name in available):
        raise UserError(f"device: this machine has no {str(wanted)!r}; it has: {has}")
    return wanted


def read_config(path: Path) -> tuple[Any, dict[str, Any]]:
    """The policy's config in a checkpoint's header, and what its model card tells.

    Raises CheckpointError if this version cannot read it.
    """
    header = read_header(path)
    try:
        config_class = lookup("policies", str(header["type"]))
        config = validate(config_class, stored_values(str(header["type"]), header["config"]))
    except KeyError as error:
        raise CheckpointError(f"{path}: {error.args[0]}") from error
    except ConfigError as error:
        raise CheckpointError(
            f"{path}: the config was written by another version of vla: {error}"
        ) from error
    return config, header.get("card") or {}


def _nearest_folder(folder: Path) -> str:
    """A hint if the first missing part of the path was misspelled: the most similar folder."""
    missing = folder
    rest: list[str] = []
    while not missing.parent.is_dir() and missing.parent != missing:
        rest.insert(0, missing.name)
        missing = missing.parent
    try:
        names = [path.name for path in missing.parent.iterdir() if path.is_dir()]
    except OSError:
        return ""
    close = nearest(missing.name, names, cutoff=0.6)
    if close is None:
        return ""
    whole = missing.parent.joinpath(close, *rest)
    suggestion = whole if whole.is_dir() else missing.parent / close
    return f" (did you mean {suggestion}?)"


__all__ = [
    "CONFIG_FILE",
    "SPEC_FILE",
    "TOKENIZER_FILE",
    "WEIGHTS_FILE",
    "CheckpointError",
    "checked_device",
    "find_checkpoint",
    "read_config",
    "read_header",
    "read_shapes",
    "read_tensors",
    "require_files",
    "stored_values",
]
