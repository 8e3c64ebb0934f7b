"""Recordings of ROS and Foxglove: MCAP files, rosbag2 folders and ROS 1 bags, one for each episode.

Messages come when they come; a step is a tick of the control rate, and what is read at a tick is
the last message of each topic at or before it, by the times at which the messages were recorded.

L: ticks of an episode, D: numbers per tick.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from vla.common.registry import register
from vla.data.errors import DataError
from vla.data.format import Image, KeyMap
from vla.data.formats.common.dimensions import Part
from vla.data.formats.common.episodic_reader import EpisodeNumbers, EpisodicReader, distinct_names
from vla.data.formats.common.files import fingerprint, inside
from vla.data.formats.common.names import natural
from vla.data.formats.common.unread import listing
from vla.data.formats.rosbag_parts.mcap_file import opened
from vla.data.formats.rosbag_parts.messages import (
    image_kind,
    image_of,
    number_fields,
    numbers_of,
    text_fields,
    text_of,
    why_no_image,
)
from vla.data.formats.rosbag_parts.recording import Recording, files_of, recording_paths
from vla.data.storage.image_files import file_image_size

_INSTRUCTIONS = ("instruction", "language_instruction", "task", "prompt")


@dataclass
class _Said:
    """What a topic said in one recording.

    Attributes:
        times: of its messages in ns, rising.
        values: path of a field -> its numbers at each message.
    """

    times: list[int] = field(default_factory=list)
    values: dict[str, list[np.ndarray]] = field(default_factory=dict)


@register("formats", "rosbag")
class RosbagReader(EpisodicReader):
    """Reads recordings of ROS and Foxglove: MCAP files, rosbag2 folders, `.bag` files; keys name
    topics and fields. Opening reads every message once."""

    @classmethod
    def matches(cls, root: Path) -> bool:
        return any(True for _ in islice(recording_paths(root), 1))

    def __init__(self, root: Path, keys: KeyMap | None = None) -> None:
        super().__init__(root, keys)
        if self.keys.split is not None:
            raise DataError(f"{root}: recordings have no splits; leave `split` out")
        paths = sorted(recording_paths(root), key=lambda path: natural(str(path)))
        self._paths = [inside(root, path) for path in paths]
        if not self._paths:
            raise DataError(f"{root}: holds no .mcap, .db3 or .bag file; correct the path")
        with opened(self._paths[0]) as recording:
            self._choose(recording)
        self._read()

    # --- what is read as what ---------------------------------------------------------------------

    def _choose(self, recording: Recording) -> None:
        """By the first message of each topic of the first recording."""
        self._kinds = {topic: kind for topic, (kind, _) in recording.topics.items()}
        for topic, reason in recording.unread.items():
            self.warnings.append(f"{topic} is left out: {reason}")
        firsts: dict[str, Any] = {}
        for topic, _, data in recording.raw(list(recording.topics)):
            if topic not in firsts:
                firsts[topic] = recording.message(topic, data)
            if len(firsts) == sum(count > 0 for _, count in recording.topics.values()):
                break
        self._known: dict[str, list[str]] = {}
        for topic, message in firsts.items():
            if image_kind(self._kinds[topic]) is None:
                for path, names in number_fields(message).items():
                    self._known[topic + path] = names
        if not self.keys.action:
            raise self._no_keys(recording)
        self._actions = self._fields("action", self.keys.action)
        self._states = self._fields("state", self.keys.state or [])
        self._reward = self._single("reward", self.keys.reward)
        success = self._success_key(self.keys.reward, self._known)
        self._success = self._single("success", success)
        self._cameras = self._find_cameras(firsts)
        self._words = self._find_words(firsts)
        self._sizes = {}
        for camera, topic in self._cameras.items():
            where = f"{self._paths[0]}: {topic}"
            image = image_of(firsts[topic], _image_kind(recording, topic), where)
            if isinstance(image, bytes):
                self._sizes[camera] = file_image_size(image, where)
            else:
                self._sizes[camera] = (int(image.shape[0]), int(image.shape[1]))
        self.recorded = frozenset(
            name for name, parts in (("rewards", self._reward), ("success", self._success)) if parts
        )
        self._warn_of_unread()

    def _fields(self, what: str, entries: Sequence[str]) -> list[Part]:
        """Fields, parts of fields, or all numbers of a topic or of a message in it."""
        parts: list[Part] = []
        for entry in entries:
            below = [key for key in self._known if key.startswith(f"{entry}.")]
            parts += self._chosen(what, below or [entry], self._known)
        return parts

    def _single(self, what: str, key: str | None) -> list[Part]:
        parts = [] if key is None else self._fields(what, [key])
        if len(parts) > 1 or any(len(one.dims) > 1 for one in parts):
            raise DataError(f"{self.root}: {key!r} to read as {what} is more than one number")
        return parts

    def _find_cameras(self, firsts: dict[str, Any]) -> dict[str, str]:
        """Camera -> topic."""
        readable = {}
        for topic, message in firsts.items():
            kind = image_kind(self._kinds[topic])
            if kind is not None:
                readable[topic] = why_no_image(message, kind)
        if self.keys.cameras is None:
            found = {}
            for topic, reason in readable.items():
                if reason:
                    self.warnings.append(f"camera {topic} is left out: {reason}")
                else:
                    found[topic.strip("/").replace("/", "_")] = topic
            return found
        for camera, topic in self.keys.cameras.items():
            if topic not in readable:
                raise self._lacking(f"camera {camera!r}", topic, list(readable))
            if readable[topic]:
                raise DataError(f"{self.root}: {topic}: {readable[topic]}; name another topic")
        return dict(self.keys.cameras)

    def _find_words(self, firsts: dict[str, Any]) -> tuple[str, str] | None:
        """The topic of the instruction and the field of its messages that holds it."""
        texts = {topic: text_fields(message) for topic, message in firsts.items()}
        named = self.keys.instruction
        if named is not None:
            for topic, places in texts.items():
                if any(named == topic + place for place in places):
                    return topic, named.removeprefix(topic)
                if named == topic and len(places) == 1:
                    return topic, places[0]
            known = [topic + place for topic, places in texts.items() for place in places]
            raise self._lacking("instruction", named, known)
        for topic, places in texts.items():
            if topic.rpartition("/")[2] in _INSTRUCTIONS and len(places) == 1:
                return topic, places[0]
        return None

    def _no_keys(self, recording: Recording) -> DataError:
        """Names what there is: no name of a topic says that it is the action."""
        topics = []
        for topic, (kind, count) in recording.topics.items():
            rate = (count - 1) / recording.seconds if recording.seconds and count > 1 else 0
            topics.append(f"{topic} ({kind}, {count} messages, {rate:.3g} Hz)")
        example = "no topic holds numbers"
        if self._known:
            fields = list(self._known)
            commands = [
                key for key in fields if "cmd" in key or "command" in key or "action" in key
            ]
            example = f"for example action=[{(commands or fields)[0]}] state=[{fields[0]}]"
        return DataError(
            f"{self.root}: name topics and their fields by the keys `action`, `state` and "
            f"`cameras`, {example}; it has: {', '.join(topics)}"
        )

    def _warn_of_unread(self) -> None:
        if self.keys.state is not None:
            return
        read = {one.key for one in (*self._actions, *self._reward, *self._success)}
        unread = [key for key in self._known if key not in read]
        if unread:
            self.warnings.append(
                f"no state is read; the key `state` can name: {listing(unread)}; for example "
                f"state=[{unread[0]}]"
            )

    # --- reading ----------------------------------------------------------------------------------

    def _read(self) -> None:
        recorded = []
        for path in self._paths:
            with opened(path) as recording:
                recorded.append(self._messages(path, recording))
        hz = self._rate([said_by for said_by, _ in recorded])
        self._frames: list[dict[str, np.ndarray]] = []
        episodes = []
        for path, (said_by, words) in zip(self._paths, recorded, strict=True):
            episodes.append(self._episode(path, said_by, words, hz))
        self._assemble(
            episodes,
            cameras=self._sizes,
            state_names=distinct_names(self._states, self._known),
            action_names=distinct_names(self._actions, self._known),
            control_hz=hz,
            unnamed_task=self.root.resolve().stem,
        )

    def _messages(
        self, path: Path, recording: Recording
    ) -> tuple[dict[str, _Said], list[tuple[int, str]]]:
        """The numbers of each topic that is read, the times of its images, and the instruction."""
        parts = [*self._actions, *self._states, *self._reward, *self._success]
        fields: dict[str, list[str]] = {topic: [] for topic in self._cameras.values()}
        for one in parts:
            topic = self._topic(one.key)
            place = one.key.removeprefix(topic)
            if place not in fields.setdefault(topic, []):
                fields[topic].append(place)
        said_by = {topic: _Said() for topic in fields}
        wanted = [*fields, *([self._words[0]] if self._words else [])]
        words: list[tuple[int, str]] = []  # (time, text)
        for topic, time, data in recording.raw(wanted):
            if self._words and topic == self._words[0]:
                words.append((time, text_of(recording.message(topic, data), self._words[1])))
            if topic not in fields:
                continue
            said_by[topic].times.append(time)
            if not fields[topic]:  # images are read when they are asked for
                continue
            message = recording.message(topic, data)
            for place in fields[topic]:
                numbers = numbers_of(message, place)
                expected = len(self._known[topic + place])
                if len(numbers) != expected:
                    raise DataError(
                        f"{path}: {topic}{place} has {len(numbers)} numbers in message "
                        f"{len(said_by[topic].times) - 1}, expected {expected} as in the first; "
                        "name other fields or drop the recording"
                    )
                said_by[topic].values.setdefault(place, []).append(numbers)
        silent = [topic for topic, said in said_by.items() if not said.times]
        if silent:
            raise DataError(
                f"{path}: has no message of {', '.join(silent)}; drop the recording or leave the "
                "topic out"
            )
        return said_by, words

    def _topic(self, key: str) -> str:
        """The topic of a field: the longest whose name the field's begins with."""
        fitting = [topic for topic in self._kinds if key.startswith(f"{topic}.")]
        return max(fitting, key=len)

    def _rate(self, recorded: list[dict[str, _Said]]) -> float:
        """Of the keys, or that of the actions."""
        if self.keys.control_hz is not None:
            return float(self.keys.control_hz)
        topic = self._topic(self._actions[0].key)
        steps = [np.diff(said_by[topic].times) for said_by in recorded]
        joined = np.concatenate(steps)
        if not len(joined):
            raise DataError(
                f"{self.root}: {topic} has one message, which says no rate; give it "
                "(`control_hz=20`)"
            )
        hz = float(f"{1e9 / np.median(joined):.3g}")
        self.warnings.append(
            f"does not say its control rate: {hz:g} Hz is taken from {topic}; give it "
            "(`control_hz=20`)"
        )
        return hz

    def _episode(
        self,
        path: Path,
        said_by: dict[str, _Said],
        words: list[tuple[int, str]],
        hz: float,
    ) -> EpisodeNumbers:
        # from the first moment at which all topics have spoken to the last message of the actions
        start = max(said.times[0] for said in said_by.values())
        end = said_by[self._topic(self._actions[0].key)].times[-1]
        if end < start:
            raise DataError(
                f"{path}: the actions end before all topics have begun; drop the recording or "
                "leave a topic out"
            )
        L = int((end - start) / 1e9 * hz + 1e-6) + 1
        ticks = start + np.round(np.arange(L) * (1e9 / hz)).astype(np.int64)
        # the last message at or before each tick
        last = {
            topic: np.searchsorted(np.array(said.times), ticks, side="right") - 1
            for topic, said in said_by.items()
        }
        self._frames.append({camera: last[topic] for camera, topic in self._cameras.items()})

        def matrix(parts: list[Part]) -> np.ndarray:
            columns = [np.zeros((L, 0))]
            for one in parts:
                topic = self._topic(one.key)
                values = np.stack(said_by[topic].values[one.key.removeprefix(topic)])
                columns.append(values[last[topic]][:, list(one.dims)])
            return np.concatenate(columns, axis=1)

        rewards = matrix(self._reward)
        success = matrix(self._success)
        return EpisodeNumbers(
            name=path.name,
            state=matrix(self._states),
            actions=matrix(self._actions),
            rewards=rewards[:, 0] if self._reward else np.zeros(L),
            success=success[:, 0] > 0 if self._success else np.zeros(L, bool),
            terminated=False,
            instruction="",
            info={"name": path.name},
            instructions=_words_at(ticks, words),
        )

    # --- images -----------------------------------------------------------------------------------

    def images(
        self,
        camera: str,
        start: int,
        stop: int,
    ) -> Iterator[tuple[int, Image]]:
        topic = self._cameras[camera]
        for episode, first, lower, upper in self._step_ranges(start, stop):
            frames = self._frames[episode][camera]
            path = self._paths[episode]
            step = lower
            with opened(path) as recording:
                kind = _image_kind(recording, topic)
                for number, (_, _, data) in enumerate(recording.raw([topic])):
                    if step == upper:
                        break
                    if number < frames[step]:
                        continue
                    message = recording.message(topic, data)
                    image = image_of(message, kind, f"{path}: {topic}: message {number}")
                    # a slow camera shows one image at several ticks
                    while step < upper and frames[step] == number:
                        yield first + step, image
                        step += 1

    def fingerprint(self) -> str:
        files = [file for path in self._paths for file in files_of(path)]
        return fingerprint(self.root, files, self._cameras, self.spec.control_hz)


def _image_kind(recording: Recording, topic: str) -> str:
    return image_kind(recording.topics[topic][0]) or ""


def _words_at(ticks: np.ndarray, words: list[tuple[int, str]]) -> list[str]:
    """The last text at or before each tick; before the first text that one."""
    if not words:
        return []
    times = np.array([time for time, _ in words])
    last = np.searchsorted(times, ticks, side="right") - 1
    return [words[place][1] for place in np.maximum(last, 0)]
