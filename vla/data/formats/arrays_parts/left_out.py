"""What of a dataset of arrays is not read, in sentences with what reads it or leaves it out."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from vla.data.errors import DataError
from vla.data.formats.arrays_parts import roles
from vla.data.formats.arrays_parts.container import Array, EpisodeArrays
from vla.data.formats.arrays_parts.hdf5_file import SUFFIXES
from vla.data.formats.arrays_parts.words import flattened
from vla.data.formats.common.pictures import Pictures
from vla.data.formats.common.unread import listing, unread_numbers

_SHORTEST = 3
"""Letters of a text that may be an instruction."""
_LONGEST = 200
_LIKELY = ("instruction", "lang", "task", "prompt", "goal", "caption")
_NO_INSTRUCTIONS = ("path", "file", "date", "time", "version", "uuid", "robot", "env", "format")
"""Words in names of texts that say something else."""


def unread_pictures(
    first: EpisodeArrays,
    forms: Mapping[str, Pictures | str],
    cameras: Mapping[str, str],
) -> list[str]:
    """Of images that are read by default: those in another form than usual, and those that are
    left out.

    Args:
        first: the episode that they were found in.
        forms: key -> form of its images, or why they are not read.
        cameras: camera -> key, which are read.
    """
    warnings = []
    for key, form in forms.items():
        if isinstance(form, str):
            warnings.append(f"{first.name}/{key} {form}: it is not read")
        elif form.by_key and key not in cameras.values():
            # a key for one camera leaves out the others: all are named
            read = {**cameras, key.rpartition("/")[2]: key}
            typed = " ".join(f"cameras.{camera}={own}" for camera, own in read.items())
            warnings.append(f"{first.name}/{key} {form.warning}: it is not read; {typed} reads it")
    return warnings


def unread_arrays(
    first: EpisodeArrays,
    numbers: Mapping[str, Array],
    known: Collection[str],
    states: Sequence[str],
    actions: Sequence[str],
) -> list[str]:
    """Sentences about numbers that are not read.

    Args:
        first: the episode that they were found in.
        numbers: its arrays that hold numbers.
        known: its images, and what is read beside state and action.
        states: keys that are read as the state.
        actions: keys that are read as the action.
    """
    steps = numbers[actions[0]].rows
    unread, misfits = {}, []
    for key, array in numbers.items():
        if key in (*known, *states, *actions) or roles.is_known_name(key) or array.shape == (1,):
            continue
        # a key for what has other rows would end in the next error
        if array.rows in (steps, steps + 1):
            unread[key] = array.shape
        else:
            misfits.append(f"{key} {array.shape}")
    warnings = unread_numbers(unread, states, actions)
    if misfits:
        warnings.append(
            f"not read, since they have no row for each of {steps} actions: {listing(misfits)}"
        )
    for key, array in first.arrays.items():
        is_time = array.dtype.kind == "M" and key.rpartition("/")[2] in roles.TIMES
        if array.dtype.kind in "cVMm" and key not in known and not is_time:
            warnings.append(
                f"{first.name}/{key} is {array.dtype} {array.shape}, expected plain numbers: it is "
                "not read"
            )
    return warnings


def check_actions(root: Path, arrays: Mapping[str, Array], names: Sequence[str]) -> None:
    """Raises DataError if an array has the name of actions and no numbers."""
    for key, array in arrays.items():
        if key.rpartition("/")[2] in names:
            raise DataError(
                f"{root}: {key} is {array.dtype} {array.shape}, expected numbers (steps, "
                "dimensions): store it as float32 (`.astype(np.float32)`)"
            )


def refuse_stacked(
    root: Path, first: EpisodeArrays, action: Array, others: Sequence[Array]
) -> None:
    """Raises DataError if arrays (E, L, D) hold several episodes, which would be taken for one of
    E steps with chunks of L actions.

    Args:
        action: what is read as action.
        others: further numbers of the episode.
    """
    alike = [array for array in others if array.shape[:2] == action.shape[:2]]
    alike = [array for array in alike if len(array.shape) == 3]
    if len(action.shape) != 3 or action.shape[1] == 1 or not alike:
        return
    path = first.container.path
    # nothing but NumPy and h5py, which are there if the file was made on this machine
    opener = "import numpy as np; a = np.load"
    if path.suffix.lower() in SUFFIXES:
        opener = "import h5py, numpy as np; a = h5py.File"
    out = json.dumps(str(path.with_name(f"{path.stem}_episodes.npz")))
    E = action.shape[0]
    script = (
        f"{opener}({json.dumps(str(path))}); np.savez_compressed({out}, "
        f'**{{f"{{e}}/{{k}}": a[k][e] for k in a for e in range({E}) '
        f'if getattr(a[k], "shape", ())[:1] == ({E},)}})'
    )
    key, other = (array.path.removesuffix(".npy") for array in (action, alike[0]))
    command = f"python -c {shlex.quote(script)}"
    raise DataError(
        f"{root}: {key} {action.shape} and {other} {alike[0].shape} look like {E} episodes, which "
        f"may be filled up to one length: write each by itself (`{command}`), or name what is "
        f"read (action=[{key}] reads all numbers of a row)"
    )


def unlike_the_first(
    root: Path, episodes: Sequence[EpisodeArrays], keys: Collection[str]
) -> list[str]:
    """At most one sentence, about arrays that other episodes have and the first has not, by which
    it is chosen what is read.

    Args:
        keys: that were given, which are read in any case.
    """
    first = episodes[0]
    counts: dict[str, int] = {}
    for episode in episodes[1:]:
        for key in episode.arrays:
            if key not in first.arrays and key not in keys:
                counts[key] = counts.get(key, 0) + 1
    if not counts:
        return []
    # one command for all would leave out more than any of them needs
    most = max(counts, key=lambda key: counts[key])
    lacking = [episode for episode in episodes if most not in episode.arrays]
    listed = listing([f"{key} (in {count} episodes)" for key, count in counts.items()])
    return [
        f"not read, since {first.name}, the first of {len(episodes)} episodes, lacks it: {listed}; "
        f"to read {most}, leave out the episodes without it: "
        f"{how_to_leave_out(root, lacking, episodes)}"
    ]


def unread_texts(first: EpisodeArrays) -> list[str]:
    """At most one sentence, about texts of an episode that could be its instruction, under another
    name than the usual ones."""
    found = []
    for key, array in first.arrays.items():
        if array.is_text and key.rpartition("/")[2] not in roles.INSTRUCTIONS:
            found.append(key)
    for key, value in flattened(first.attributes).items():
        is_words = isinstance(value, str) and _SHORTEST <= len(value) <= _LONGEST
        if is_words and not any(word in key.lower() for word in _NO_INSTRUCTIONS):
            found.append(key)
    if not found:
        return []
    # the likeliest first: what is called after language or a task
    found.sort(key=lambda key: not any(word in key.lower() for word in _LIKELY))
    return [
        f"texts that are not read: {listing(found)}; the key `instruction` reads one of them: "
        f"instruction={found[0]}"
    ]


def refuse_unlike(
    root: Path,
    odd: Sequence[tuple[EpisodeArrays, DataError]],
    episodes: Sequence[EpisodeArrays],
) -> None:
    """Raises DataError naming all episodes that cannot be read, and what leaves them out."""
    if not odd:
        return
    first = odd[0][1]
    others = ""
    if len(odd) > 1:
        names = listing([episode.name for episode, _ in odd[1:]])
        others = f"; {len(odd) - 1} further of {len(episodes)} episodes cannot be read: {names}"
    remedy = how_to_leave_out(root, [episode for episode, _ in odd], episodes)
    raise DataError(f"{first}{others}; to leave out what cannot be read: {remedy}") from first


def how_to_leave_out(
    root: Path,
    left_out: Sequence[EpisodeArrays],
    episodes: Sequence[EpisodeArrays],
) -> str:
    """The commands that take episodes out of a dataset: they rename a file of one episode so that
    it is passed over, delete groups of an HDF5 file, and write an archive again without some."""
    counts = Counter(id(episode.container) for episode in episodes)
    of_container: dict[Path, list[EpisodeArrays]] = {}
    for episode in left_out:
        of_container.setdefault(episode.container.path, []).append(episode)
    commands = []
    for path, own in of_container.items():
        command = ""
        if counts[id(own[0].container)] == 1 and path != root:
            # renamed, not deleted: it may be mended later
            command = hide(path)
        elif not any(episode.first_row for episode in own):
            command = _without(path, own)
        if not command:
            return "write the dataset again without them"
        commands.append(command)
    more = f", and so on for {len(commands) - 3} more" if len(commands) > 3 else ""
    return ", ".join(f"`{command}`" for command in commands[:3]) + more


def _without(path: Path, episodes: Sequence[EpisodeArrays]) -> str:
    """The command that takes episodes out of a file of several; empty if there is none."""
    # as JSON: double quotes stay as they are within those of a shell
    file = json.dumps(str(path))
    script = ""
    if path.suffix.lower() in SUFFIXES:
        deleted = ", ".join(f"f[{json.dumps(_group(episode))}]" for episode in episodes)
        script = f'import h5py; f = h5py.File({file}, "a"); del {deleted}'
    elif path.suffix.lower() == ".npz":
        names = json.dumps([episode.name for episode in episodes])
        # zip files cannot be shortened: the rest is written beside
        rest = json.dumps(str(path.with_stem(f"{path.stem}_rest")))
        script = (
            f"import numpy as np; a = np.load({file}); np.savez_compressed({rest}, "
            f'**{{k: a[k] for k in a if k.split("/")[0] not in {names}}})'
        )
    return f"python -c {shlex.quote(script)}" if script else ""


def _group(episode: EpisodeArrays) -> str:
    """Where an episode's arrays lie in their file."""
    key, array = next(iter(episode.arrays.items()))
    return array.path.removesuffix(key).rstrip("/")


def hide(path: Path) -> str:
    """The command that gives a file a name that readers pass over."""
    hidden = path.with_name(f".{path.name}")
    return f"mv {shlex.quote(str(path))} {shlex.quote(str(hidden))}"


__all__ = [
    "check_actions",
    "hide",
    "how_to_leave_out",
    "refuse_stacked",
    "refuse_unlike",
    "unlike_the_first",
    "unread_arrays",
    "unread_pictures",
    "unread_texts",
]
