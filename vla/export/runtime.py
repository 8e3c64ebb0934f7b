"""A policy that acts by ONNX Runtime: numpy, onnxruntime and safetensors, no torch.

It is an `Actor` like any policy: `vla eval`, `vla serve` and `vla.control` use it unchanged. What
it is given in torch tensors it answers in them, what it is given in arrays in arrays.

B robots, S state dimensions, K actions per chunk, A action dimensions, E numbers of an
instruction's vector, H and W image height and width.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from vla.common.cores import usable_cores
from vla.common.errors import UserError
from vla.common.foreign.checksums import CHECKSUMS_FILE, changed_files
from vla.export.package_files import (
    DTYPES,
    EXPORT_FILE,
    GRAPH_FILE,
    INSTRUCTIONS_FILE,
    MAX_GRAPH_BYTES,
    Description,
    PackageError,
    Port,
    load_instructions,
    read_description,
)
from vla.types.errors import ActionError, SpecError
from vla.types.indicator_text import indicator_row, without_indicator
from vla.types.spec import Spec

_ONNX_TYPES = {
    "tensor(float)": "float32",
    "tensor(bool)": "bool",
    "tensor(uint8)": "uint8",
    "tensor(int64)": "int64",
}
_BLANK = "blank"
"""The encoder of `vla.tokenizers.language` whose vectors are zeros, whatever the text."""


@dataclass(frozen=True)
class ArrayObservation:
    """What B robots see at one control step, where there is no torch for a `vla.Observation`.

    Attributes:
        images: camera -> uint8 (B, H, W, 3), RGB.
        state: numbers (B, S), robot units.
        instruction: B texts.
    """

    images: Mapping[str, np.ndarray]
    state: np.ndarray
    instruction: Sequence[str]

    def __post_init__(self) -> None:
        # lists of numbers are taken, too; the class is frozen, hence `object.__setattr__`
        images = {camera: np.asarray(image) for camera, image in self.images.items()}
        object.__setattr__(self, "images", images)
        object.__setattr__(self, "state", np.asarray(self.state))

    def check(self, spec: Spec) -> None:
        """Raises SpecError naming what does not fit `spec`."""
        if isinstance(self.instruction, str):
            raise SpecError(
                f"instruction is the one text {self.instruction!r}: expected a list of B texts; "
                "write [text], and give every array the axis B"
            )
        B = len(self.instruction)
        for camera, size in spec.cameras.items():
            image = self.images.get(camera)
            if image is None:
                has = ", ".join(self.images) or "none"
                raise SpecError(f"observation lacks camera {camera!r} (it has: {has})")
            if image.dtype != np.uint8 or image.shape != (B, *size, 3):
                raise SpecError(
                    f"camera {camera!r}: expected uint8 {(B, *size, 3)}, got {image.dtype} "
                    f"{image.shape}; give RGB pixels of 0 to 255 at the spec's size"
                )
        state = self.state
        if state.dtype.kind not in "buif" or state.shape != (B, spec.state_dim):
            raise SpecError(
                f"state: expected numbers {(B, spec.state_dim)} ({', '.join(spec.state_names)}), "
                f"got {state.dtype} {state.shape}"
            )
        # as the graph will see it: what float32 cannot hold is infinite there
        with np.errstate(over="ignore"):
            wrong = ~np.isfinite(state.astype(np.float32)).all(axis=0)
        if wrong.any():
            raise SpecError(f"state {spec.state_names[int(wrong.argmax())]!r}: is not finite")


@dataclass(frozen=True)
class ExportedMemory:
    """What B robots remember: a value, never changed in place.

    Attributes:
        tensors: name -> (B, ...); zeros and False where a robot has no past.
        instruction: what each robot was asked to do.
    """

    tensors: Mapping[str, np.ndarray]
    instruction: tuple[str, ...]

    @property
    def batch_size(self) -> int:
        """Number of robots, B."""
        return len(self.instruction)

    def select(self, rows: Sequence[int]) -> ExportedMemory:
        """The memory of some robots, in the order given."""
        index = [int(row) for row in rows]
        tensors = {name: values[index] for name, values in self.tensors.items()}
        return ExportedMemory(tensors, tuple(self.instruction[row] for row in index))

    @classmethod
    def stack(cls, memories: Sequence[Self]) -> ExportedMemory:
        """The memories of several groups of robots, of whatever age, as one."""
        tensors = {}
        for name in memories[0].tensors:
            tensors[name] = np.concatenate([memory.tensors[name] for memory in memories])
        texts = [text for memory in memories for text in memory.instruction]
        return ExportedMemory(tensors, tuple(texts))


class ExportedPolicy:
    """A policy out of the folder that `vla export onnx` wrote. Made by `load`.

    Attributes:
        spec: the robot it is for.
        history: T.
        cameras: that it looks through.
        description: what `export.json` says.
        source, card, fingerprint, computes_on_cpu: see `vla.control.actor_traits`.
    """

    computes_on_cpu = True

    def __init__(
        self,
        folder: Path,
        description: Description,
        spec: Spec,
        session: Any,
        vectors: Mapping[str, np.ndarray],
    ) -> None:
        self.folder = folder
        self.description = description
        self.spec = spec
        self.history = description.history
        self.cameras = tuple(
            name.removeprefix("image.") for name in description.inputs if name.startswith("image.")
        )
        self.source = str(folder)
        self.card = dict(description.card)
        self.fingerprint = description.graph_sha256
        self._session = session
        self._vectors = dict(vectors)
        self._encoder: Any = None
        self._outputs = [name for name in description.outputs if name != "logits"]

    @property
    def instructions(self) -> tuple[str, ...]:
        """The texts whose vectors are known, with or without a text encoder."""
        return tuple(self._vectors)

    def act(
        self,
        observation: Any,
        memory: ExportedMemory | None = None,
        *,
        generator: np.random.Generator | None = None,
        temperature: float = 0.0,
    ) -> tuple[Any, ExportedMemory]:
        """The next actions (B, K, A) within the spec's range, and the memory.

        A robot whose instruction changes starts a new history, as with the policy itself.

        Args:
            observation: a `vla.Observation`, or an `ArrayObservation`.
            memory: what the last call returned; None at the start of episodes.
            generator: source of randomness of array observations, if temperature > 0.
            temperature: 0 for the most likely actions. Only what flows from noise has others.

        Raises:
            SpecError: the observation does not fit the spec.
            ValueError: memory of another number of robots.
            UserError: the vector of an instruction is not known, or a temperature is asked of a
                policy that does not draw.
            ActionError: what was computed holds NaN or infinity.
        """
        observation.check(self.spec)
        texts = tuple(observation.instruction)
        if memory is not None and memory.batch_size != len(texts):
            raise ValueError(
                f"memory of {memory.batch_size} robots with an observation of {len(texts)}; use "
                "memory.select(rows) when robots drop out and stack([...]) when they join"
            )
        feeds = self._seen(observation, texts) | self._past(memory, texts)
        as_torch = not isinstance(observation.state, np.ndarray)
        noise = self._noise(len(texts), generator, temperature, as_torch)
        found = self.run(feeds | noise, self._outputs)
        if not found["is_finite"].all():
            row = int(np.argmin(found["is_finite"]))
            raise ActionError(
                f"act: NaN or infinity came out for robot {row} of {len(texts)}; no action was "
                "given: look at what the robot saw, and at the training's loss"
            )
        tensors = {name: found[f"next.{name}"] for name in self.description.memory}
        actions = found["actions"]
        return (_as_torch(actions) if as_torch else actions), ExportedMemory(tensors, texts)

    def run(self, feeds: Mapping[str, np.ndarray], outputs: Sequence[str]) -> dict[str, np.ndarray]:
        """Outputs of the graph by name (see `vla.export.graph`)."""
        values = self._session.run(list(outputs), dict(feeds))
        return dict(zip(outputs, values, strict=True))

    def feeds(
        self, observation: Any, memory: ExportedMemory | None = None
    ) -> dict[str, np.ndarray]:
        """The inputs of the graph for an observation that was checked; noise is zeros."""
        texts = tuple(observation.instruction)
        noise = self._noise(len(texts), None, 0.0, False)
        return self._seen(observation, texts) | self._past(memory, texts) | noise

    def _seen(self, observation: Any, texts: tuple[str, ...]) -> dict[str, np.ndarray]:
        """Images, state and instruction as the graph takes them."""
        found = {}
        for name in self.description.inputs:
            if name.startswith("image."):
                camera = name.removeprefix("image.")
                found[name] = np.ascontiguousarray(_array(observation.images[camera]))
            elif name == "state":
                found[name] = np.ascontiguousarray(_array(observation.state), np.float32)
            elif name == "language":
                found[name] = np.stack([self._vector(text) for text in texts])
            elif name == "indicator":
                found[name] = np.array([indicator_row(text) for text in texts], np.int64)
        return found

    def _past(self, memory: ExportedMemory | None, texts: tuple[str, ...]) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = {}
        for name, port in self.description.memory.items():
            if memory is None:
                past: np.ndarray = np.zeros((len(texts), *port.shape), DTYPES[port.dtype])
            else:
                past = memory.tensors[name]
                changed = [old != new for old, new in zip(memory.instruction, texts, strict=True)]
                if any(changed):
                    past = past.copy()
                    past[changed] = 0
            found[f"memory.{name}"] = past
        return found

    def _noise(
        self,
        robots: int,
        generator: np.random.Generator | None,
        temperature: float,
        as_torch: bool,
    ) -> dict[str, np.ndarray]:
        if not temperature >= 0:
            raise UserError(f"temperature is {temperature}: expected 0 (the mode) or more")
        port = self.description.inputs.get("noise")
        if port is None and temperature:
            raise UserError(
                f"temperature is {temperature:g}, but the exported {self.description.policy} "
                "gives its most likely actions alone: set temperature=0, or act by the policy "
                f"itself: policy={self.description.source or 'POLICY'}"
            )
        if port is None:
            return {}
        shape = (robots, *port.shape)
        if not temperature:
            return {"noise": np.zeros(shape, np.float32)}
        if as_torch:
            # control seeds torch's generators, by which an evaluation can be repeated
            import torch

            drawn = torch.randn(shape).numpy()
        else:
            drawn = (generator or np.random.default_rng()).standard_normal(shape, np.float32)
        return {"noise": np.float32(math.sqrt(temperature)) * drawn}

    def _vector(self, text: str) -> np.ndarray:
        """The vector (E,) of a text."""
        if "indicator" in self.description.inputs:
            text = without_indicator(text)
        if text not in self._vectors:
            self._vectors[text] = self._embedded(text)
        return self._vectors[text]

    def _embedded(self, text: str) -> np.ndarray:
        """The vector of a text that was not exported, if this machine can compute it."""
        if self.description.encoder == _BLANK:
            return np.zeros(self.description.inputs["language"].shape, np.float32)
        try:
            from vla.tokenizers.language import LanguageEncoder
        except ImportError:
            raise UserError(
                f"instruction {text!r}: {self.folder / INSTRUCTIONS_FILE} has no vector of it, and "
                "there is no torch here to compute one; add the text to a file, a line each, "
                "where torch is: vla export onnx POLICY OUT --instructions FILE"
            ) from None
        if self._encoder is None:
            self._encoder = LanguageEncoder(self.description.encoder)
        vector_E = self._encoder.embed([text])[0].numpy()
        if vector_E.shape != self.description.inputs["language"].shape:
            raise PackageError(
                f"instruction {text!r}: encoder {self.description.encoder!r} gives "
                f"{vector_E.shape[0]} numbers, the graph takes "
                f"{self.description.inputs['language']}; export the policy again"
            )
        return np.asarray(vector_E, np.float32)


def is_exported(folder: str | Path) -> bool:
    """Whether a folder holds an exported policy; any other is no reason to fail."""
    return (Path(folder) / EXPORT_FILE).is_file()


def load(folder: str | Path, *, threads: int | None = None) -> ExportedPolicy:
    """The policy in a folder that `vla export onnx` wrote.

    Args:
        threads: that compute one step; default all cores of this process.

    Raises:
        PackageError: a file is missing, damaged or of another version, or they do not belong
            together.
        UserError: onnxruntime is not installed.
    """
    folder = Path(folder)
    description, spec = read_description(folder)
    language = description.inputs.get("language")
    dim = 0 if language is None else language.shape[0]
    vectors = load_instructions(folder / INSTRUCTIONS_FILE, dim)
    _check_sums(folder)
    path = folder / GRAPH_FILE
    size = path.stat().st_size
    if size > MAX_GRAPH_BYTES:
        raise PackageError(f"{path}: has {size} bytes, expected at most {MAX_GRAPH_BYTES}")
    # what is hashed is what is run: the file may be replaced in between
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != description.graph_sha256:
        raise PackageError(
            f"{path}: SHA-256 is {found}, export.json says {description.graph_sha256}; copy the "
            "folder again"
        )
    session = _session(data, path, threads or usable_cores())
    _check_session(session, description, path)
    return ExportedPolicy(folder, description, spec, session, vectors)


def _check_sums(folder: Path) -> None:
    """Raises PackageError if a file is not the one that was written."""
    try:
        damaged = list(changed_files(folder))
    except (UserError, OSError) as error:
        raise PackageError(f"{folder / CHECKSUMS_FILE}: cannot be used: {error}") from error
    if damaged:
        raise PackageError(
            f"{folder / damaged[0]}: is damaged: its SHA-256 is not the one in {CHECKSUMS_FILE}; "
            f"copy the folder again, or remove {CHECKSUMS_FILE} if you changed it yourself"
        )


def _session(data: bytes, path: Path, threads: int) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise UserError("onnxruntime is not installed: pip install 'vla[export]'") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # threads that wait in busy loops take the cores of the envs, or of the robot's driver
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # products of numbers near zero take many times as long if they are not flushed
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the library raises kinds of its own, which share no base
        reason = " ".join(str(error).split())[:300]
        raise PackageError(f"{path}: ONNX Runtime cannot load it: {reason}") from error


def _check_session(session: Any, description: Description, path: Path) -> None:
    """Raises PackageError if the graph is not the one that `export.json` describes."""
    for kind, ports, described in (
        ("inputs", session.get_inputs(), description.inputs),
        ("outputs", session.get_outputs(), description.outputs),
    ):
        found = {}
        for port in ports:
            dtype = _ONNX_TYPES.get(port.type, port.type)
            # the number of robots has a name; a graph for a fixed number is none of ours
            is_free = bool(port.shape) and not isinstance(port.shape[0], int)
            found[port.name] = Port(dtype, tuple(port.shape[1:] if is_free else port.shape))
        if found != dict(described):
            wrong = next(n for n in (found | dict(described)) if found.get(n) != described.get(n))
            raise PackageError(
                f"{path}: {kind}.{wrong} is {found.get(wrong, 'missing')}, export.json says "
                f"{described.get(wrong, 'nothing of it')}; export the policy again"
            )


def _array(values: Any) -> np.ndarray:
    """Of a tensor, wherever it lies, or an array."""
    return values if isinstance(values, np.ndarray) else values.detach().cpu().numpy()


def _as_torch(array: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(array)


__all__ = ["ArrayObservation", "ExportedMemory", "ExportedPolicy", "is_exported", "load"]
