"""Several datasets of one robot as one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vla.common.progress import ProgressCallback
from vla.data.errors import DataError
from vla.data.reader import EpisodeDataset
from vla.data.storage.video import VideoConfig
from vla.data.tools.derived import Converted, write_derived
from vla.data.tools.limits import common_limits
from vla.data.tools.plan import Plan, source_name
from vla.types import Spec


def merge(
    sources: Sequence[str | Path],
    dst: str | Path,
    *,
    video: VideoConfig | None = None,
    jobs: int | None = None,
    progress: ProgressCallback | None = None,
) -> Converted:
    """Writes the episodes of all sources, one source after the other; resumable as `convert` is.

    Equal instructions become one task. Limits of actions may differ: the new ones hold all.

    Raises:
        DataError: fewer than two sources, or cameras, names or control rates differ: the message
            lists how; or as `convert`.
    """
    if len(sources) < 2:
        raise DataError(f"{dst}: {len(sources)} dataset given; merging needs two or more")
    datasets = [EpisodeDataset(source) for source in sources]
    first = datasets[0]
    for dataset in datasets[1:]:
        lines = differences(first.spec, dataset.spec)
        if lines:
            raise DataError(
                f"{dataset.root}: does not fit {source_name(first.root)}: {'; '.join(lines)}; "
                "convert one of them with other keys or at another rate (`vla data convert --help`)"
            )
    spec, notes = common_limits([dataset.spec for dataset in datasets])
    places = []
    for number, dataset in enumerate(datasets):
        places += [(number, index) for index in range(len(dataset))]
    plan = Plan("merge", datasets, places, spec, {}, notes=notes)
    return write_derived(plan, dst, video=video, jobs=jobs, progress=progress)


def differences(first: Spec, other: Spec) -> list[str]:
    """One line for each way in which episodes of `other` do not fit into a dataset of `first`;
    limits do not count."""
    limits = ("action_low", "action_high")
    lines = [line for line in first.differences(other) if not line.startswith(limits)]
    # `differences` looks at the cameras of the first alone: a policy may leave others out
    more = [camera for camera in other.cameras if camera not in first.cameras]
    lines += [f"camera {camera!r} is not in the first" for camera in more]
    if first.control_hz != other.control_hz:
        lines.append(f"control_hz is {other.control_hz:g}, expected {first.control_hz:g}")
    return lines
