"""Damages copies of small datasets in many ways, and judges what reader and validator make of each."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import traceback
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from fuzz_sets import Sample, table_edit

from vla.data import EpisodeDataset, decode_image
from vla.data.errors import DataError
from vla.data.validation.report import validate

OUTCOMES = (
    "refused",
    "found",
    "warned",
    "harmless",
    "plausible",
    "MISSED",
    "UNNAMED",
    "SILENT",
    "TRACEBACK",
)
"""refused: reading raises a DataError, and `validate` tells of it. found: a new finding of `validate`. warned: a new warning
of the reader. harmless: all samples are as before. plausible: a file of another maker that has no checksum holds another value
that could have been recorded. Bad are: MISSED, refused but `validate` sees no error; UNNAMED, a DataError that names no file
of the dataset; SILENT, other samples without a word; TRACEBACK, an exception of another kind."""
BAD = OUTCOMES[5:]
_VALUES: tuple[Any, ...] = (
    float("nan"),
    float("inf"),
    -1,
    0,
    10**15,
    1e300,
    0.5,
    "",
    "text",
    "../../outside",
    "/etc/passwd",
    "v9.9",
    [],
    {},
    [1, 2],
    None,
    True,
)


@dataclass(frozen=True)
class Damage:
    """What was done.

    Attributes:
        kind: in a word.
        place: the file.
        detail: what in it.
    """

    kind: str
    place: str
    detail: str = ""


@dataclass(frozen=True)
class Clean:
    """What an undamaged dataset gives."""

    samples: dict[str, Any]
    warnings: frozenset[str]
    findings: frozenset[tuple[str, str, str]]


def clean(sample: Sample) -> Clean:
    samples, warnings = read_samples(sample.path)
    report = validate(sample.path)
    if not report.ok:
        raise AssertionError(f"{sample.name} is not clean: {report.of('error')}")
    return Clean(
        samples, frozenset(_plain(w, sample.path) for w in warnings), _findings(report, sample.path)
    )


def read_samples(root: Path) -> tuple[dict[str, Any], list[str]]:
    """Everything that a training could see, and the reader's warnings."""
    dataset = EpisodeDataset(root)
    columns, table = dataset.columns, dataset.episodes
    found: dict[str, Any] = {
        "spec": json.dumps(dataset.spec.to_dict()),
        "words": dataset.instructions,
    }
    for name in ("state", "actions", "rewards", "success", "terminated"):
        found[name] = getattr(columns, name).tobytes()
    found["episodes"] = table.drop(columns="info").to_csv()
    for camera in dataset.spec.cameras:
        found[f"camera {camera}"] = [
            (
                frame,
                zlib.crc32(np.ascontiguousarray(decode_image(p) if isinstance(p, bytes) else p)),
            )
            for frame, p in dataset.images(camera)
        ]
    dataset.fingerprint()
    return found, dataset.warnings


def _plain(text: str, root: Path) -> str:
    return text.replace(str(root), "ROOT")


def _findings(report: Any, root: Path) -> frozenset[tuple[str, str, str]]:
    return frozenset(
        (finding.check, finding.severity, _plain(finding.message, root))
        for finding in report.findings
        if finding.severity != "note"
    )


# --- damage -----------------------------------------------------------------------------------------


def files_of(root: Path) -> list[Path]:
    return [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.is_file())


def harm(root: Path, rng: np.random.Generator) -> Damage:
    """Damages the dataset at `root` in one way."""
    files = files_of(root)
    path = files[int(rng.integers(len(files)))]
    kinds = list(_KINDS)
    while True:
        kind = kinds[int(rng.integers(len(kinds)))]
        detail = _KINDS[kind](path, files, rng)
        if detail is not None:
            return Damage(
                kind, path.name if path == root else path.relative_to(root).as_posix(), detail
            )


def _flip(path: Path, files: list[Path], rng: np.random.Generator) -> str | None:
    data = bytearray(path.read_bytes())
    if not data:
        return None
    at, change = int(rng.integers(len(data))), int(rng.integers(1, 256))
    data[at] ^= change
    path.write_bytes(data)
    return f"byte {at} ^ {change}"


def _noise(path: Path, files: list[Path], rng: np.random.Generator) -> str | None:
    data = path.read_bytes()
    at, noise = int(rng.integers(len(data) + 1)), rng.bytes(int(rng.integers(1, 9)))
    path.write_bytes(data[:at] + noise + data[at + len(noise) :])
    return f"{len(noise)} bytes at {at}"


def _cut(path: Path, files: list[Path], rng: np.random.Generator) -> str | None:
    data = path.read_bytes()
    at = int(rng.integers(len(data) + 1))
    path.write_bytes(data[:at])
    return f"at byte {at} of {len(data)}"


def _append(path: Path, files: list[Path], rng: np.random.Generator) -> str | None:
    with open(path, "ab") as file:
        file.write(rng.bytes(int(rng.integers(1, 64))))
    return "bytes at the end"


def _delete(path: Path, files: list[Path], rng: np.random.Generator) -> str | None:
    path.unlink()
    return ""


def _swap(path: Path, files: list[Path], rng: np.random.Generator) -> str | None:
    others = [other for other in files if other.suffix == path.suffix and other != path]
    if not others:
        return None
    other = others[int(rng.integers(len(others)))]
    ours, theirs = path.read_bytes(), other.read_bytes()
    path.write_bytes(theirs)
    other.write_bytes(ours)
    return f"with {other.parent.name}/{other.name}"


def _replace(path: Path, files: list[Path], rng: np.random.Generator) -> str | None:
    other = files[int(rng.integers(len(files)))]
    if other == path:
        return None
    shutil.copyfile(other, path)
    return f"by {other.parent.name}/{other.name}"


def _link(path: Path, files: list[Path], rng: np.random.Generator) -> str | None:
    kind = int(rng.integers(4))
    outside = path.parents[len(path.parts) - 2] / "nowhere" if kind == 0 else path
    if kind == 1:
        outside = path.with_name("..") / ".." / ".." / f"outside-{path.name}"
    if kind == 2:
        outside = Path("/etc/hostname")
    path.unlink()
    path.symlink_to(outside)
    return f"to {outside.name}"


def _duplicate(path: Path, files: list[Path], rng: np.random.Generator) -> str | None:
    names = [path.name + ".tmp", path.name.replace("0", "1", 1), path.stem + "-copy" + path.suffix]
    name = path.with_name(names[int(rng.integers(len(names)))])
    if name.exists():
        return None
    shutil.copyfile(path, name)
    return f"as {name.name}"


def _version(path: Path, files: list[Path], rng: np.random.Generator) -> str | None:
    if path.name != "info.json":
        return None
    version = ["v1.6", "v2.0", "v2.1", "v3.0", "v3.1", "v4.0", "3", ""][int(rng.integers(8))]
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"codebase_version": version}))
    return version


def _edit(path: Path, files: list[Path], rng: np.random.Generator) -> str | None:
    """One change of a metadata file or table that leaves it well-formed."""
    if path.suffix == ".json":
        values = json.loads(path.read_text())
        detail = _edit_value(values, rng)
        path.write_text(json.dumps(values))
        return detail
    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        detail = _edit_value(rows, rng)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return detail
    if path.suffix == ".csv":
        lines = [line.split(",") for line in path.read_text().splitlines()]
        row, column = int(rng.integers(len(lines))), int(rng.integers(len(lines[0])))
        lines[row][column] = ["nan", "", "-1", "1e300", "0.5", "word", "inf"][int(rng.integers(7))]
        path.write_text("\n".join(map(",".join, lines)) + "\n")
        return f"row {row}, column {column} = {lines[row][column]!r}"
    if path.suffix == ".parquet":
        return table_edit(path, rng)
    return None


def _edit_value(values: Any, rng: np.random.Generator) -> str | None:
    """Removes, renames or replaces something at a random depth."""
    place = ""
    while True:
        keys = list(values) if isinstance(values, dict) else list(range(len(values)))
        if not keys:
            return None
        key = keys[int(rng.integers(len(keys)))]
        place += f"/{key}"
        inner = values[key]
        if isinstance(inner, dict | list) and len(inner) and rng.random() < 0.75:
            values = inner
            continue
        kind = int(rng.integers(5))
        if kind == 0:
            del values[key]
            return f"{place} removed"
        if kind == 1 and isinstance(values, dict):
            values[f"{key}x"] = values.pop(key)
            return f"{place} renamed"
        if kind == 2 and isinstance(inner, int | float):
            values[key] = inner + 1
        elif kind == 3 and isinstance(inner, list):
            values[key] = inner[::-1]
        else:
            values[key] = _VALUES[int(rng.integers(len(_VALUES)))]
        return f"{place} = {values[key]!r}"[:120]


_Harm = Callable[[Path, list[Path], np.random.Generator], str | None]
_KINDS: dict[str, _Harm] = {
    "flip": _flip,
    "noise": _noise,
    "cut": _cut,
    "append": _append,
    "delete": _delete,
    "swap": _swap,
    "replace": _replace,
    "link": _link,
    "duplicate": _duplicate,
    "version": _version,
    "edit": _edit,
}
KINDS = tuple(_KINDS)
_CONTENT = ("flip", "noise", "cut", "append", "swap", "replace", "edit", "version")
"""Kinds of damage that leave every file in its place."""


# --- judgement --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Judged:
    """Attributes:
    sample: name of the kind of dataset.
    damage: what was done.
    outcome: one of OUTCOMES.
    detail: error, finding or traceback.
    """

    sample: str
    damage: Damage
    outcome: str
    detail: str = ""


def trial(sample: Sample, before: Clean, folder: Path, seed: int) -> Judged:
    """Damages a copy of a dataset and judges; `folder` is for the copy."""
    source = sample.path
    copy = folder / source.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.copytree(source, copy) if source.is_dir() else shutil.copy(source, copy)
    for path in files_of(copy):  # caches know the time of the files that they were made of
        original = source / path.relative_to(copy) if source.is_dir() else source
        with contextlib.suppress(OSError):
            os.utime(path, ns=(original.stat().st_atime_ns, original.stat().st_mtime_ns))
    damage = harm(copy, np.random.default_rng(seed))
    outcome, detail = judge(sample, before, copy, damage)
    shutil.rmtree(folder, ignore_errors=True)
    return Judged(sample.name, damage, outcome, detail)


def judge(sample: Sample, before: Clean, copy: Path, damage: Damage) -> tuple[str, str]:
    refusal: DataError | None = None
    samples: dict[str, Any] = {}
    warnings: list[str] = []
    try:
        try:
            samples, warnings = read_samples(copy)
        except DataError as error:
            refusal = error
        try:
            report = validate(copy)
            found, ok = _findings(report, copy) - before.findings, report.ok
        except DataError as error:
            found, ok = frozenset({("opens", "error", str(error))}), False
    except Exception:
        return "TRACEBACK", traceback.format_exc(limit=-6)
    if refusal is not None:
        if ok:
            return "MISSED", str(refusal)
        named = str(copy) in str(refusal) or "not a readable image" in str(refusal)
        return ("refused" if named else "UNNAMED"), str(refusal)
    if found:
        return "found", "; ".join(sorted(f"{check}: {message}" for check, _, message in found))
    if new := {_plain(w, copy) for w in warnings} - before.warnings:
        return "warned", "; ".join(sorted(new))
    changed = [
        key for key in before.samples | samples if before.samples.get(key) != samples.get(key)
    ]
    if not changed:
        return "harmless", ""
    # One file in another's place is whole; where nothing but its name tells what it is, nobody can know.
    moved = damage.kind in ("swap", "replace") and bool(sample.unchecked)
    if moved or (damage.kind in _CONTENT and damage.place.endswith(sample.unchecked)):
        return "plausible", ", ".join(changed)
    return "SILENT", ", ".join(changed)
