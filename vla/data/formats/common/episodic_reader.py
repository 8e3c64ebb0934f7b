"""What readers of other makers' formats share: episodes one by one in, columns, table and spec out.

N: frames of the dataset, L: steps of an episode, S: state dimensions, A: action dimensions.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vla.common.renamed import announce_renamed
from vla.data.episode import Scalar
from vla.data.errors import DataError
from vla.data.format import Columns, DatasetReader, KeyMap
from vla.data.formats.common.action_limits import action_limits
from vla.data.formats.common.dimensions import Part, part
from vla.data.formats.common.rates import differing, said, timed
from vla.data.formats.common.step_texts import held
from vla.data.formats.common.unread import listing
from vla.types import Spec, SpecError


@dataclass(frozen=True)
class EpisodeNumbers:
    """An episode without its images.

    Attributes:
        name: what the dataset calls it, for messages.
        state: (L, S).
        actions: (L, A).
        rewards: (L,).
        success: bool (L,).
        terminated: whether its last action truly ended it.
        instruction: the task in words; empty if the dataset does not say, or says it in
            `instructions`.
        info: what else it says.
        instructions: all texts of the episode in their order, L or one more if each step has one,
            blank ones among them.
    """

    name: str
    state: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    success: np.ndarray
    terminated: bool
    instruction: str
    info: dict[str, Scalar] = field(default_factory=dict)
    instructions: Sequence[str] = ()


class EpisodicReader(DatasetReader):
    """Base of readers that meet all numbers when they open, and images later."""

    keys: KeyMap
    _columns: Columns

    def __init__(self, root: Path, keys: KeyMap | None = None) -> None:
        self.root = root
        self.keys = keys or KeyMap()
        self.warnings: list[str] = []
        self.metadata: dict[str, Any] = {}

    def _assemble(
        self,
        episodes: Sequence[EpisodeNumbers],
        *,
        cameras: Mapping[str, tuple[int, int]],
        state_names: Sequence[str],
        action_names: Sequence[str],
        control_hz: float,
        unnamed_task: str,
    ) -> None:
        """Sets spec, instructions, episodes and columns. `unnamed_task` stands for instructions
        that are missing."""
        if not episodes:
            raise DataError(f"{self.root}: has no episodes; check that it was copied whole")
        self._check_widths(episodes, (len(state_names), len(action_names)))
        lengths = np.array([len(e.actions) for e in episodes], np.int64)
        texts = self._instructions(episodes, unnamed_task)
        first_tasks = self._number_tasks(texts, lengths)
        self.episodes = pd.DataFrame(
            {
                "episode_index": np.arange(len(episodes)),
                "length": lengths,
                "first_frame": np.cumsum(lengths) - lengths,
                "task_index": first_tasks,
                "info": [json.dumps(e.info) for e in episodes],
            }
        )
        # one flag per episode becomes one per frame, at its last
        terminated = np.zeros(int(lengths.sum()), bool)
        terminated[np.cumsum(lengths) - 1] = [e.terminated for e in episodes]
        self._columns = Columns(
            state=_joined([e.state for e in episodes]),
            actions=_joined([e.actions for e in episodes]),
            rewards=_joined([e.rewards for e in episodes]),
            success=np.concatenate([e.success for e in episodes]).astype(bool),
            terminated=terminated,
        )
        self._names = [e.name for e in episodes]
        for camera in cameras:
            # its own name says that red and blue are exchanged
            if "bgr" in camera.lower() and camera not in self.keys.colours:
                self.warnings.append(
                    f"camera {camera!r} is read as RGB: if it is stored as BGR, give "
                    f"`colours.{camera}=bgr`, else `colours.{camera}=rgb`"
                )
        low, high = action_limits(self._columns.actions)
        try:
            self.spec = Spec(
                dict(cameras), tuple(state_names), tuple(action_names), low, high, control_hz
            )
        except SpecError as error:
            raise DataError(f"{self.root}: {error}; choose other keys") from error

    def _check_widths(self, episodes: Sequence[EpisodeNumbers], expected: tuple[int, int]) -> None:
        """Raises DataError naming the first episode with other numbers of dimensions."""
        for episode in episodes:
            width = (episode.state.shape[1], episode.actions.shape[1])
            if width != expected:
                raise DataError(
                    f"{self.root}: {episode.name} has {width[0]} state and {width[1]} action "
                    f"dimensions, {episodes[0].name} has {expected[0]} and {expected[1]}; drop it, "
                    "or choose other keys"
                )

    def _number_tasks(self, texts: Sequence[Sequence[str]], lengths: np.ndarray) -> list[int]:
        """Sets instructions, and which of them each frame follows if an episode has several.

        Returns that of each episode's first step.
        """
        # each once, in the order of episodes
        self.instructions = list(dict.fromkeys(text for own in texts for text in own))
        place = {text: i for i, text in enumerate(self.instructions)}
        if any(len(set(own)) > 1 for own in texts):
            of_steps: list[int] = []
            for own, length in zip(texts, lengths.tolist(), strict=True):
                tasks = [place[text] for text in own]
                of_steps += tasks if len(tasks) > 1 else tasks * length
            self.frame_tasks = np.array(of_steps, np.int64)
        return [place[own[0]] for own in texts]

    def _instructions(
        self, episodes: Sequence[EpisodeNumbers], unnamed_task: str
    ) -> list[list[str]]:
        """Each episode's instruction, or those of its steps. The key `task` stands for all, or with
        the key `instruction` for those that are missing."""
        if self.keys.task is not None and self.keys.instruction is None:
            return [[self.keys.task] for _ in episodes]
        texts = self._step_texts(episodes)
        # Without any words a dataset still gets one task, named after itself.
        missing = sum(not own[0] for own in texts)
        if missing and self.keys.task is None:
            self.warnings.append(
                f"{missing} of {len(episodes)} episodes have no instruction: {unnamed_task!r} "
                "stands for it; give one (`task=WORDS`) or its key (`instruction=KEY`)"
            )
        return [own if own[0] else [self.keys.task or unnamed_task] for own in texts]

    def _step_texts(self, episodes: Sequence[EpisodeNumbers]) -> list[list[str]]:
        """Of each episode L texts or one, blank if it gives none; with warnings for what is not
        read."""
        found = []
        blank = 0
        odd = []
        for episode in episodes:
            given = episode.instructions or [episode.instruction]
            L = len(episode.actions)
            # the observation after the last action may have one too, which is left out
            is_per_step = L > 1 and len(given) in (L, L + 1)
            given = [text.strip() for text in given]
            texts, blank_steps = held(given[:L] if is_per_step else given)
            if is_per_step and texts[0]:
                blank += blank_steps
            elif len(set(texts)) > 1:
                odd.append(f"{episode.name} has {len(texts)} for {L} steps")
            found.append(texts if is_per_step else texts[:1])
        if blank:
            self.warnings.append(
                f"{blank} steps have no instruction: that of the step before stands for it"
            )
        if odd:
            self.warnings.append(
                f"{len(odd)} of {len(episodes)} episodes give several instructions and not one for "
                f"each step ({odd[0]}): the first is read; `instruction=KEY` reads another"
            )
        return found

    def _warn_of_empty(self, names: Sequence[str], count: int) -> None:
        """Episodes without a step hold nothing that could be read.

        Raises DataError if there are no others.
        """
        if names and len(names) == count:
            raise DataError(
                f"{self.root}: none of its {count} episodes has a step; record it again"
            )
        if names:
            self.warnings.append(
                f"{len(names)} of {count} episodes have no steps and are left out: {listing(names)}"
            )

    def columns(self) -> Columns:
        return self._columns

    def episode_name(self, index: int) -> str:
        return f"episode {index} ({self._names[index]})"

    def _step_ranges(self, start: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
        """(episode, its first frame, first step, end step) of every episode that has frames in
        [start, stop)."""
        starts = self.episodes["first_frame"].to_numpy()
        lengths = self.episodes["length"].to_numpy()
        for episode in np.flatnonzero((starts < stop) & (starts + lengths > start)):
            first = int(starts[episode])
            lower = max(start - first, 0)
            upper = min(stop - first, int(lengths[episode]))
            yield int(episode), first, lower, upper

    def _spans(self, start: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
        """Former name of `_step_ranges`, which readers of other packages call."""
        announce_renamed("EpisodicReader._spans", "EpisodicReader._step_ranges")
        return self._step_ranges(start, stop)

    def _control_rate(
        self,
        stored: Any,
        assumed: float,
        times: Sequence[np.ndarray] = (),
    ) -> float:
        """Of the keys, or else `stored`, or else of the times of the steps, or else `assumed` with
        a warning.

        Args:
            stored: what the dataset says, or a list of what it says of each episode.
            assumed: Hz.
            times: of each episode's steps.
        """
        if self.keys.control_hz is not None:
            return float(self.keys.control_hz)
        values = stored if isinstance(stored, list) else [stored]
        rates = [said(value) for value in values]
        known = [rate for rate in rates if rate is not None]
        found = timed(times, "its time") if times else None
        if known:
            self._warn_of_rates(rates, known[0])
            if found is not None and abs(found.hz - known[0]) > 0.2 * known[0]:
                self.warnings.append(
                    f"says its control rate is {known[0]:g} Hz, the times of its steps "
                    f"{found.hz:g} Hz: {known[0]:g} is taken; give it if it is the other "
                    f"(`control_hz={found.hz:g}`)"
                )
            return known[0]
        if found is not None:
            self.warnings += found.warnings
            self._warn_of_rates(found.of_episodes, found.hz)
            return found.hz
        problem = "does not say its control rate"
        written = [value for value in values if value is not None]
        if written:
            problem = f"says its control rate is {written[0]!r}"
        self.warnings.append(f"{problem}: {assumed:g} Hz is assumed; give it (`control_hz=5`)")
        return assumed

    def _warn_of_rates(self, rates: Sequence[float | None], taken: float) -> None:
        differs = differing(rates, taken, self.root)
        if differs:
            self.warnings.append(differs)

    def _chosen(
        self,
        what: str,
        entries: Sequence[str],
        known: Mapping[str, Sequence[str]],
        prefixes: Sequence[str] = (),
    ) -> list[Part]:
        """The numbers that entries of the keys `state` or `action` name, in order.

        Args:
            what: "state" or "action", for messages.
            entries: whole keys, parts of keys, dimensions, or groups of keys.
            known: key -> names of its dimensions.
            prefixes: what may be left out before a key, such as `obs/`.

        Raises DataError if there is none of one, or a dimension is chosen twice.
        """
        parts: list[Part] = []
        for entry in entries:
            found = self._parts_of(entry, known, prefixes)
            if not found:
                raise self._lacking(what, entry, list(known))
            parts += found
        return parts

    def _parts_of(
        self,
        entry: str,
        known: Mapping[str, Sequence[str]],
        prefixes: Sequence[str],
    ) -> list[Part]:
        key = entry.partition("[")[0]
        for prefix in ("", *prefixes):
            if prefix + entry in known or prefix + key in known:
                found = part(prefix + entry, known)
                return [] if found is None else [found]
        # a group: all that is below it
        for prefix in ("", *prefixes):
            below = [name for name in known if name.startswith(f"{prefix}{entry}/")]
            if below:
                return [whole_part(name, known) for name in below]
        found = part(entry, known)
        return [] if found is None else [found]

    def _success_key(self, reward: str | None, known: Collection[str]) -> str | None:
        """The key `success`; `rewards` stands for the reward, if no key of that name is there."""
        key = self.keys.success
        if key in ("reward", "rewards") and key not in known and reward is not None:
            return reward
        return key

    def _lacking(self, what: str, key: str, known: Sequence[str]) -> DataError:
        """The error for a key that the dataset does not have."""
        return DataError(
            f"{self.root}: no {key!r} to read as {what}; it has: {', '.join(known) or 'none'}"
        )


def dimension_names(parts: Sequence[tuple[str, int]]) -> list[str]:
    """(key, width) of what is put side by side -> one name per dimension: the key's last word and a
    number, or the whole key if two would be called alike."""
    names = _numbered([(key.rpartition("/")[2], width) for key, width in parts])
    if len(set(names)) < len(names):
        names = _numbered([(key.replace("/", "."), width) for key, width in parts])
    return names


def _numbered(stems: Sequence[tuple[str, int]]) -> list[str]:
    names = []
    for stem, width in stems:
        names += [stem] if width == 1 else [f"{stem}_{i}" for i in range(width)]
    return names


def whole_part(key: str, known: Mapping[str, Sequence[str]]) -> Part:
    """All dimensions of a key."""
    names = tuple(known[key])
    return Part(key, tuple(range(len(names))), names)


def known_dimensions(
    widths: Mapping[str, int],
    shown: Sequence[Sequence[str]],
    called: Mapping[str, str],
) -> dict[str, list[str]]:
    """Key -> names of its dimensions: those that are shown where the keys say nothing, so that they
    can be typed.

    Args:
        widths: key -> its number of dimensions.
        shown: keys that are put side by side by default, as the state and as the action.
        called: key -> what its dimensions are called if it is the only one of them.
    """
    known: dict[str, list[str]] = {}
    for keys in shown:
        if len(keys) == 1:
            key = keys[0]
            known[key] = dimension_names([(called.get(key, key), widths[key])])
            continue
        names = dimension_names([(key, widths[key]) for key in keys])
        for key in keys:
            known[key] = names[: widths[key]]
            names = names[widths[key] :]
    taken = {name for names in known.values() for name in names}
    for key, width in widths.items():
        names = dimension_names([(key, width)])
        # what is not shown gives way
        if taken & set(names):
            names = dimension_names([(key.replace("/", "."), width)])
        known.setdefault(key, names)
    return {key: known[key] for key in widths}


def part_names(
    parts: Sequence[Part],
    known: Mapping[str, Sequence[str]],
    called: Mapping[str, str] | None = None,
) -> list[str]:
    """One name per dimension of parts that are put side by side.

    Args:
        parts: of keys.
        known: key -> names of its dimensions.
        called: key -> what its dimensions are called instead, where several keys are read whole.
    """
    whole = all(len(one.names) == len(known[one.key]) for one in parts)
    if len(parts) > 1 and whole:
        stems = called or {}
        return dimension_names([(stems.get(one.key, one.key), len(one.names)) for one in parts])
    return distinct_names(parts, known)


def distinct_names(parts: Sequence[Part], known: Mapping[str, Sequence[str]]) -> list[str]:
    """The names of all dimensions of the parts, with the whole keys if two are called alike."""
    names = [name for one in parts for name in one.names]
    if len(set(names)) == len(names):
        return names
    # two keys end in the same word, so the whole keys tell them apart
    names = []
    for one in parts:
        stem = one.key.replace("/", ".").strip(".")
        names += [stem] if len(known[one.key]) == 1 else [f"{stem}_{dim}" for dim in one.dims]
    return names


def camera_name(key: str) -> str:
    """A camera's name: it becomes part of file names."""
    return key.replace("/", "_")


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    # too large for float32 becomes infinite, which `EpisodeDataset.check_numbers` names
    with np.errstate(over="ignore"):
        return np.concatenate(parts).astype(np.float32)
