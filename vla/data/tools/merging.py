"""Several datasets of one robot as one."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vla.common.progress import ProgressCallback
from vla.data.errors import DataError
from vla.data.format import KeyMap
from vla.data.reader import EpisodeDataset, dataset_name
from vla.data.storage.video import VideoConfig
from vla.data.tools.derived import Converted, write_derived
from vla.data.tools.limits import common_limits
from vla.data.tools.plan import Plan, key_options, notes_of
from vla.types import Spec


def merge(
    sources: Sequence[str | Path],
    dst: str | Path,
    *,
    format: str | None = None,
    keys: KeyMap | Sequence[KeyMap | None] | None = None,
    video: VideoConfig | None = None,
    jobs: int | None = None,
    progress: ProgressCallback | None = None,
) -> Converted:
    """Writes the episodes of all sources, one source after the other; resumable as `convert` is.

    Equal instructions become one task. Limits of actions may differ: the new ones hold all.

    Args:
        format: of all sources; of each what lies there by default.
        keys: as of EpisodeDataset: for all sources, or one for each.

    Raises:
        ValueError: there are several `keys`, and not one for each source.
        DataError: fewer than two sources, or cameras, names or control rates differ: the message
            lists how; or as `convert`.
    """
    if len(sources) < 2:
        raise DataError(f"{dst}: {len(sources)} dataset given; merging needs two or more")
    keys_of = list(keys) if isinstance(keys, Sequence) else [keys] * len(sources)
    datasets = [
        EpisodeDataset(source, format=format, keys=own)
        for source, own in zip(sources, keys_of, strict=True)
    ]
    first = datasets[0]
    for dataset in datasets[1:]:
        lines = differences(first.spec, dataset.spec)
        if lines:
            hz = first.spec.control_hz
            remedy = "convert one of them with other keys (`vla data convert --help`)"
            # of two rates one command makes one
            if not differences(
                replace(first.spec, control_hz=dataset.spec.control_hz), dataset.spec
            ):
                source, out = (shlex.quote(f"{dataset.root}{end}") for end in ("", f"_{hz:g}hz"))
                remedy = f"`vla data resample {source} {out} --control-hz {hz:g}` makes it fit"
            raise DataError(
                f"{dataset.root}: does not fit {dataset_name(first.root)}: {'; '.join(lines)}; "
                f"{remedy}"
            )
    spec, notes = common_limits([dataset.spec for dataset in datasets])
    places = []
    for number, dataset in enumerate(datasets):
        places += [(number, index) for index in range(len(dataset))]
    options: dict[str, Any] = {}
    for number, own in enumerate(keys_of):
        for name, value in key_options(format, own).items():
            options[f"{name}.{number}"] = value
    notes = [*notes_of(datasets), *_doubts(datasets), *notes]
    plan = Plan("merge", datasets, places, spec, options, notes=notes)
    for name, left in plan.extras_left_out().items():
        notes.append(f"{name}: extra columns that not all have alike go: {', '.join(left)}")
    return write_derived(plan, dst, video=video, jobs=jobs, progress=progress)


def _doubts(datasets: Sequence[EpisodeDataset]) -> list[str]:
    """What cannot be known of the sources, and speaks against taking them for one robot's."""
    first = datasets[0]
    lines = []
    for dataset in datasets[1:]:
        doubt = first.spec.doubt(dataset.spec)
        if doubt is not None:
            lines.append(
                f"{first.name} and {dataset.name}: {doubt}; they are merged as one robot's"
            )
    for name, words in (("success", "solved"), ("rewards", "rewarded")):
        silent = [dataset.name for dataset in datasets if name not in dataset.recorded]
        if silent and len(silent) < len(datasets):
            lines.append(f"{name} is not recorded in {', '.join(silent)}: nothing there is {words}")
    return lines


def differences(first: Spec, other: Spec) -> list[str]:
    """One line for each way in which episodes of `other` do not fit into a dataset of `first`;
    limits do not count."""
    limits = ("action_low", "action_high")
    lines = [line for line in first.differences(other) if not line.startswith(limits)]
    # wider limits would put the two values of one of them between those of the other
    if first.binary_actions == other.binary_actions and first.binary_ends != other.binary_ends:
        lines.append(f"binary actions are {other.binary_ends}, expected {first.binary_ends}")
    # `differences` looks at the cameras of the first alone: a policy may leave others out
    more = [camera for camera in other.cameras if camera not in first.cameras]
    lines += [f"camera {camera!r} is not in the first" for camera in more]
    if first.control_hz != other.control_hz:
        lines.append(f"control_hz is {other.control_hz:g}, expected {first.control_hz:g}")
    return lines
