"""The reader of episodes that are stored as named arrays, whatever holds them.

L: steps of an episode, D: numbers per step, K: actions in a chunk, A: action dimensions.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from vla.common.foreign.sizes import why_too_large
from vla.data.episode import Scalar
from vla.data.errors import DataError
from vla.data.format import Image, KeyMap
from vla.data.formats.arrays_parts import roles
from vla.data.formats.arrays_parts.container import Array, EpisodeArrays, OpenContainer
from vla.data.formats.arrays_parts.left_out import (
    check_actions,
    refuse_stacked,
    refuse_unlike,
    unlike_the_first,
    unread_arrays,
    unread_pictures,
    unread_texts,
)
from vla.data.formats.arrays_parts.per_episode import (
    all_timed,
    check_counts,
    empty_ones,
    first_said,
    rate_of,
    said_of,
    times_of,
    unclear_success,
)
from vla.data.formats.arrays_parts.words import flattened, scalars, texts_at, truth
from vla.data.formats.common.dimensions import Part
from vla.data.formats.common.episodic_reader import (
    EpisodeNumbers,
    EpisodicReader,
    known_dimensions,
    part_names,
)
from vla.data.formats.common.files import fingerprint
from vla.data.formats.common.hdf5 import texts
from vla.data.formats.common.pictures import Pictures, pictures_of

ASSUMED_HZ = 20.0
"""If neither keys nor dataset say."""
_LONGEST_INFO = 200  # characters: longer texts are files of their own


class ArrayEpisodesReader(EpisodicReader):
    """Base of readers of named arrays. Opening reads all numbers that are no images; never a
    pickle."""

    _action_names: Sequence[str] = roles.ACTIONS
    _instruction_names: Sequence[str] = roles.INSTRUCTIONS
    _prefixes: Sequence[str] = roles.PREFIXES
    """What may be left out before a key."""
    _called: ClassVar[dict[str, str]] = {}
    """Key -> what its dimensions are called, beside those of other keys."""

    def __init__(self, root: Path, keys: KeyMap | None = None) -> None:
        super().__init__(root, keys)
        self._episodes = self._without_empty(self._find())
        check_counts(self.root, self._episodes)
        first = self._episodes[0]
        with first.container.opened() as opened:
            self._choose(opened, first)
        self._read()

    @abc.abstractmethod
    def _find(self) -> list[EpisodeArrays]:
        """All episodes, in order."""

    def _cameras_of(self, keys: list[str]) -> dict[str, str]:
        """Camera -> key."""
        return roles.camera_names(keys)

    # --- what is read as what ---------------------------------------------------------------------

    def _choose(self, opened: OpenContainer, first: EpisodeArrays) -> None:
        """By the first episode: what it has, all must have."""
        arrays = first.arrays
        forms = self._forms(opened, first)
        readable = {key: form for key, form in forms.items() if isinstance(form, Pictures)}
        if self.keys.cameras is None:
            readable = {key: form for key, form in readable.items() if not form.by_key}
        self._cameras = self._find_cameras(list(readable))
        self._pictures = {camera: readable[key] for camera, key in self._cameras.items()}
        numbers = roles.numbers_per_step(arrays, forms)
        actions = self._action_keys(numbers)
        steps = numbers[actions[0]].rows if actions else 0
        states = self._state_keys(numbers, steps)
        called: dict[str, str] = {}
        for key in actions[:1]:
            called |= _called(key, roles.ACTIONS, "action")
        for key in states[:1]:
            called |= _called(key, roles.PLAIN_STATES, "state")
        widths = {key: array.width for key, array in numbers.items()}
        self._known = known_dimensions(widths, (states, actions), called)
        self._actions = self._entries("action", self.keys.action, actions, first)
        if self.keys.action == []:
            raise DataError(
                f"{self.root}: the key `action` is empty, so that there are no numbers as action; "
                f"name one of: {', '.join(numbers)}"
            )
        if not self._actions:
            check_actions(self.root, arrays, self._action_names)
            raise self._lacking("action", self._action_names[-1], list(numbers))
        states = [key for key in states if key not in actions]
        if self.keys.action is None and self.keys.state is None and not states:
            others = [array for key, array in numbers.items() if key not in actions]
            refuse_stacked(self.root, first, numbers[actions[0]], others)
        self._states = self._entries("state", self.keys.state, states, first)
        reward = self._one(arrays, "reward", self.keys.reward, roles.REWARDS)
        self._reward = reward
        success = self._success_key(reward, arrays)
        self._success = self._one(arrays, "success", success, roles.SUCCESSES)
        self._ended = self._one(arrays, "true end", None, roles.ENDS)
        self._warn_of_pictures(first, forms)
        keys = [[*dict.fromkeys(one.key for one in own)] for own in (self._states, self._actions)]
        if self.keys.state is None:
            known = [key for key in (reward, self._success, self._ended) if key is not None]
            self.warnings += unread_arrays(first, numbers, [*forms, *known], *keys)
        for key in {*keys[0], *keys[1], *self._cameras.values()}:
            missing = opened.missing(arrays[key])
            if missing:
                self.warnings.append(missing)

    def _forms(self, opened: OpenContainer, first: EpisodeArrays) -> dict[str, Pictures | str]:
        """Key -> form of its images, or why they are not read."""
        found = {}
        for key, array in first.arrays.items():
            if array.dtype.hasobject and not array.is_text and array.path.endswith(".npy"):
                self.warnings.append(
                    f"{first.name}/{key} holds pickled objects, which are never loaded: store "
                    "numbers or texts"
                )
                continue

            def read(start: int, stop: int, key: str = key) -> np.ndarray:
                return first.read(opened, key, start, stop)

            form = pictures_of(key, array.shape, array.dtype, read)
            if form is not None:
                found[key] = form
        return found

    def _find_cameras(self, images: list[str]) -> dict[str, str]:
        """Camera -> key."""
        if self.keys.cameras is None:
            # the same images once more, a step later, are no camera of their own
            return self._cameras_of([key for key in images if not key.startswith("next_")])
        found = {}
        for camera, key in self.keys.cameras.items():
            places = [f"{prefix}{key}" for prefix in ("", *self._prefixes)]
            there = [place for place in places if place in images]
            if not there:
                raise self._lacking(f"camera {camera!r}", key, images)
            found[camera] = there[0]
        return found

    def _action_keys(self, numbers: dict[str, Array]) -> list[str]:
        return roles.first_of(self._action_names, numbers)

    def _state_keys(self, numbers: dict[str, Array], steps: int) -> list[str]:
        return roles.default_states(numbers, steps)

    def _entries(
        self,
        what: str,
        entries: list[str] | None,
        default: list[str],
        first: EpisodeArrays,
    ) -> list[Part]:
        if entries is not None:
            return self._chosen(what, entries, self._known, self._prefixes)
        parts = self._chosen(what, default, self._known)
        return [self._first_of_chunk(one, first.arrays[one.key]) for one in parts]

    def _first_of_chunk(self, whole: Part, array: Array) -> Part:
        """Of a chunk of actions at each step, the first, which is the step's own."""
        if len(array.shape) != 3 or array.shape[1] == 1:
            return whole
        K, A = array.shape[1:]
        self.warnings.append(
            f"{whole.key} holds chunks of {K} actions for each step: the first of each is read; "
            f"action=[{whole.key}] reads the numbers of all"
        )
        return Part(whole.key, tuple(range(A)), whole.names[:A])

    def _one(
        self,
        arrays: Any,
        what: str,
        key: str | None,
        usual: Sequence[str],
    ) -> str | None:
        """The key of one number per step, or of the whole episode."""
        single = [name for name, array in arrays.items() if array.is_single]
        if key is not None:
            for prefix in ("", *self._prefixes):
                if prefix + key in single:
                    return prefix + key
            raise self._lacking(what, key, single)
        for name in usual:
            named = [path for path in single if path == name or path.endswith(f"/{name}")]
            if named:
                return named[0]
        return None

    # --- what is not read -------------------------------------------------------------------------

    def _warn_of_pictures(
        self,
        first: EpisodeArrays,
        forms: dict[str, Pictures | str],
    ) -> None:
        for camera, pictures in self._pictures.items():
            if pictures.warning and not pictures.by_key:
                key = self._cameras[camera]
                self.warnings.append(f"{first.name}/{key} {pictures.warning}")
        if self.keys.cameras is None:  # else the user has chosen
            self.warnings += unread_pictures(first, forms, self._cameras)

    # --- reading ----------------------------------------------------------------------------------

    def _read(self) -> None:
        self._check_unpacked()
        episodes = []
        sizes = {camera: pictures.size for camera, pictures in self._pictures.items()}
        rates = []
        times = []
        odd: list[tuple[EpisodeArrays, DataError]] = []
        # a file is opened once for all its episodes
        for container, group in groupby(self._episodes, key=lambda episode: episode.container):
            with container.opened() as opened:
                for episode in group:
                    for key in self._cameras.values():
                        if key in episode.arrays:
                            opened.check(episode.arrays[key])
                    described = flattened(episode.attributes)
                    rates.append(rate_of(opened, episode, described))
                    try:
                        found = self._episode(opened, episode, described)
                        self._check_pictures(episode, len(found.actions))
                    except DataError as error:
                        odd.append((episode, error))
                        continue
                    times.append(times_of(opened, episode, len(found.actions)))
                    episodes.append(found)
        refuse_unlike(self.root, odd, self._episodes)
        given = [entry.partition("[")[0] for entry in self.keys.state or ()]
        self.warnings += unlike_the_first(self.root, self._episodes, given)
        self.warnings += unclear_success(self._episodes) if self._success is None else []
        if self.keys.task is None and not any(found.instructions for found in episodes):
            self.warnings += unread_texts(self._episodes[0])
        self.recorded = self._recorded()
        self._assemble(
            episodes,
            cameras=sizes,
            state_names=part_names(self._states, self._known, self._called),
            action_names=part_names(self._actions, self._known, self._called),
            control_hz=self._control_rate(rates, ASSUMED_HZ, all_timed(times)),
            unnamed_task=self._unnamed_task(),
        )

    def _without_empty(self, found: list[EpisodeArrays]) -> list[EpisodeArrays]:
        if not found:
            raise DataError(f"{self.root}: has no episodes; check that it was copied whole")
        empty = empty_ones(found, self.keys.action, self._action_names)
        self._warn_of_empty(empty, len(found))
        return [episode for episode in found if episode.name not in empty]

    def _check_unpacked(self) -> None:
        """Raises DataError if all numbers together are far larger than the files: they are held in
        memory."""
        keys = {one.key for one in (*self._actions, *self._states)}
        keys |= {key for key in (self._reward, self._success, self._ended) if key is not None}
        unpacked = 0
        for episode in self._episodes:
            unpacked += sum(array.unpacked for key, array in episode.arrays.items() if key in keys)
        containers = {id(episode.container): episode.container for episode in self._episodes}
        stored = sum(container.stored for container in containers.values())
        problem = why_too_large(unpacked, stored)
        if problem:
            raise DataError(f"{self.root}: its numbers {problem}")

    def _recorded(self) -> frozenset[str]:
        found = {
            "rewards": self._reward is not None,
            "success": self._success is not None or self._says_success(),
            "terminated": self._ended is not None,
        }
        return frozenset(name for name, says in found.items() if says)

    def _says_success(self) -> bool:
        """Whether something but an array says which episodes were solved."""
        return any(truth(said_of(episode)) is not None for episode in self._episodes)

    def _unnamed_task(self) -> str:
        described = flattened(self._episodes[0].attributes)
        return str(first_said(described, ("env_id", "env_name")) or self.root.resolve().stem)

    def _episode(
        self,
        opened: OpenContainer,
        episode: EpisodeArrays,
        described: dict[str, Any],
    ) -> EpisodeNumbers:
        acted = self._matrix(opened, episode, self._actions, None)
        L = len(acted)
        if not L:
            raise DataError(f"{self.root}: {episode.name} has no actions")
        state = self._matrix(opened, episode, self._states, L)
        rewards = self._numbers(opened, episode, self._reward, L)
        return EpisodeNumbers(
            name=episode.name,
            state=state,
            actions=acted,
            rewards=rewards,
            success=self._solved(opened, episode, rewards),
            terminated=bool(self._numbers(opened, episode, self._ended, L)[-1] > 0),
            instruction="",
            info=self._info(episode, described),
            instructions=self._instructions_of(opened, episode, described),
        )

    def _solved(
        self,
        opened: OpenContainer,
        episode: EpisodeArrays,
        rewards: np.ndarray,
    ) -> np.ndarray:
        """Whether the task was solved after each action, bool (L,)."""
        L = len(rewards)
        if self._success is not None:
            return self._numbers(opened, episode, self._success, L) > 0
        # said of the whole episode beside the arrays: due at its last step
        whole = truth(said_of(episode)) is True
        return (np.arange(L) == L - 1) & whole

    def _info(self, episode: EpisodeArrays, described: dict[str, Any]) -> dict[str, Scalar]:
        info = {}
        for key, value in scalars(described).items():
            if len(str(value)) <= _LONGEST_INFO:
                info[key] = value
        return info | {"name": episode.name}

    def _numbers(
        self,
        opened: OpenContainer,
        episode: EpisodeArrays,
        key: str | None,
        L: int,
    ) -> np.ndarray:
        """(L,), zeros if no key is given. One number for the whole episode is due at its last
        step."""
        if key is None:
            return np.zeros(L)
        array = self._array(episode, key)
        if array.shape not in ((), (1,)) or (L == 1 and array.shape):
            return self._rows(opened, episode, key, L)[:, 0]
        value = np.asarray(episode.read(opened, key)).reshape(1)
        return np.where(np.arange(L) == L - 1, value, 0)

    def _matrix(
        self,
        opened: OpenContainer,
        episode: EpisodeArrays,
        parts: list[Part],
        L: int | None,
    ) -> np.ndarray:
        """(L, D). The observation after the last action may be there and is left out."""
        columns = [] if L is None else [np.zeros((L, 0), np.float32)]
        for one in parts:
            values = self._rows(opened, episode, one.key, L)
            L = len(values)  # the actions come first and say it
            if values.shape[1] != len(self._known[one.key]):
                raise DataError(
                    f"{self.root}: {episode.name}/{one.key} has shape "
                    f"{episode.arrays[one.key].shape}, expected {L} x "
                    f"{len(self._known[one.key])} as in {self._episodes[0].name}"
                )
            columns.append(values[:, list(one.dims)])
        return np.concatenate(columns, axis=1)

    def _array(self, episode: EpisodeArrays, key: str) -> Array:
        array = episode.arrays.get(key)
        if array is None or not (array.is_numeric or array.is_single):
            raise DataError(
                f"{self.root}: {episode.name} lacks {key!r}, which {self._episodes[0].name} has"
            )
        return array

    def _rows(
        self,
        opened: OpenContainer,
        episode: EpisodeArrays,
        key: str,
        L: int | None,
    ) -> np.ndarray:
        """(L, D) of one array."""
        array = self._array(episode, key)
        values = np.asarray(episode.read(opened, key))
        values = self._aligned(key, values.reshape(array.rows, array.width), L)
        L = len(values) if L is None else L
        if len(values) not in (L, L + 1):
            raise DataError(
                f"{self.root}: {episode.name} has {L} actions and {len(values)} of {key!r}"
            )
        return values[:L]

    def _aligned(self, key: str, values: np.ndarray, L: int | None) -> np.ndarray:
        """Rows that belong to actions, where a format has others, too."""
        return values

    def _instructions_of(
        self,
        opened: OpenContainer,
        episode: EpisodeArrays,
        described: dict[str, Any],
    ) -> list[str]:
        """All texts that an array gives as instruction, or the one of what stands beside the
        arrays."""
        words = {}
        for path, array in episode.arrays.items():
            if array.is_text and 0 not in array.shape:
                words[path] = path.rpartition("/")[2]
        wanted = self._instruction_names
        if self.keys.instruction is not None:
            wanted = (self.keys.instruction,)
        for name in wanted:
            for path, word in words.items():
                if name in (path, word):
                    return texts(np.asarray(episode.read(opened, path)))
            if isinstance(described.get(name), str):
                return texts_at(episode.attributes, name) or [str(described[name])]
        if self.keys.instruction is not None:
            raise self._lacking("instruction", self.keys.instruction, [*words, *described])
        return []

    # --- images -----------------------------------------------------------------------------------

    def _check_pictures(self, episode: EpisodeArrays, L: int) -> None:
        """Raises DataError if an episode lacks a camera's images, or has others than the first."""
        for camera, key in self._cameras.items():
            pictures = self._pictures[camera]
            array = episode.arrays.get(key)
            example = self._episodes[0].arrays[key]
            fits = array is not None and array.dtype.kind == example.dtype.kind
            fits = fits and array is not None and pictures.fits(array.shape)
            if fits and array is not None and array.rows in (L, L + 1):
                continue
            found = "missing" if array is None else f"{array.dtype} {array.shape}"
            expected = (L, *example.shape[1:])
            raise DataError(
                f"{self.root}: {episode.name}/{key} is {found}, expected {example.dtype} "
                f"{expected}; leave the camera out (`cameras={{}}` leaves out all)"
            )

    def images(
        self,
        camera: str,
        start: int,
        stop: int,
    ) -> Iterator[tuple[int, Image]]:
        key = self._cameras[camera]
        pictures = self._pictures[camera]
        for index, first, lower, upper in self._step_ranges(start, stop):
            episode = self._episodes[index]
            with episode.container.opened() as opened:
                rows = episode.images(opened, key, lower, upper)
                for step, row in enumerate(rows, start=lower):
                    where = f"{self.root}: {episode.name}/{key}: step {step}"
                    yield first + step, pictures.image(row, where)

    def fingerprint(self) -> str:
        containers = {episode.container for episode in self._episodes}
        files = [file for container in containers for file in container.files()]
        return fingerprint(self.root, files, self._cameras)


def _called(key: str, usual: Sequence[str], name: str) -> dict[str, str]:
    """Dimensions of a usual key are called by what they are."""
    return {key: name} if key.rpartition("/")[2] in usual else {}


__all__ = ["ArrayEpisodesReader"]
