"""The files of an exported policy: what they are called, what they say, and whether that can be.

Imports no torch. A folder holds `graph.onnx`, `export.json`, `spec.json`, the vectors of known
instructions, a README, and the checksums of all but that.

B robots, N texts, E numbers of an instruction's vector, S state dimensions, K actions per chunk, A
action dimensions.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from vla.common.errors import UserError
from vla.common.foreign.json_files import JsonError, parse_json, read_json
from vla.common.foreign.plain_files import check_plain_file
from vla.types.spec import Spec

FORMAT = "vla.exported_policy"
FORMAT_VERSION = 1
EXPORT_FILE = "export.json"
GRAPH_FILE = "graph.onnx"
SPEC_FILE = "spec.json"
INSTRUCTIONS_FILE = "instructions.safetensors"
README_FILE = "README.md"

MAX_GRAPH_BYTES = 2**31
"""An ONNX file is one protocol buffer, which cannot be larger."""
MAX_MEMORY = 2**28
"""Numbers that one robot's memory may hold: its zeros are made before any graph runs."""
DTYPES = {"float32": np.float32, "bool": np.bool_, "uint8": np.uint8, "int64": np.int64}
PRECISIONS = ("float32", "int8")
_AGAIN = "export the policy again: vla export onnx POLICY OUT"


class PackageError(UserError):
    """The folder of an exported policy is missing, incomplete, damaged, or of another version."""


@dataclass(frozen=True)
class Port:
    """An input or output of the graph.

    Attributes:
        dtype: a name of `DTYPES`.
        shape: of one robot; the axis B in front is left out.
    """

    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype} ({', '.join(['B', *map(str, self.shape)])})"


@dataclass(frozen=True)
class Description:
    """What `export.json` says.

    Attributes:
        policy: registered name of the policy's type.
        source: the folder or repository that it was exported from; None if it was none.
        weights_sha256, tokenizer_sha256: of the policy that was exported.
        graph_sha256: of `graph.onnx`.
        precision: float32, or int8 for products of 8-bit weights.
        history, chunk: T and K.
        encoder: of instructions, as `vla.tokenizers.language` names it; None if none are read.
        inputs, outputs: of the graph, by name (see `vla.export.graph`).
        opset: of ONNX.
        agreement: how far the graph was from the policy when it was exported.
        versions: of the libraries that wrote it.
        card: what the policy's model card tells, for results of evaluations.
    """

    policy: str
    source: str | None
    weights_sha256: str
    tokenizer_sha256: str
    graph_sha256: str
    precision: str
    history: int
    chunk: int
    encoder: str | None
    inputs: Mapping[str, Port]
    outputs: Mapping[str, Port]
    opset: int
    agreement: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    card: Mapping[str, Any] = field(default_factory=dict)

    @property
    def memory(self) -> dict[str, Port]:
        """What the policy remembers, by name."""
        found = {}
        for name, port in self.inputs.items():
            if name.startswith("memory."):
                found[name.removeprefix("memory.")] = port
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, the inverse of `from_dict`."""
        return {"format": FORMAT, "version": FORMAT_VERSION, **asdict(self)}

    @classmethod
    def from_dict(cls, values: Any, name: object) -> Self:
        """Raises PackageError naming `name` and the key that is missing or wrong."""
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise PackageError(f"{name}: no exported policy: expected format {FORMAT!r}")
        if values.get("version") != FORMAT_VERSION:
            raise PackageError(
                f"{name}: format version is {values.get('version')!r}, this vla reads "
                f"{FORMAT_VERSION}; {_AGAIN}"
            )
        found: dict[str, Any] = {}
        for key, kinds in _KINDS.items():
            value = values.get(key)
            # truth values are integers to Python
            if not isinstance(value, kinds) or isinstance(value, bool):
                wanted = " or ".join(kind.__name__ for kind in kinds)
                raise PackageError(f"{name}: {key} is {value!r}, expected {wanted}; {_AGAIN}")
            found[key] = value
        for key in ("history", "chunk", "opset"):
            if found[key] < 1:
                raise PackageError(f"{name}: {key} is {found[key]}, expected 1 or more; {_AGAIN}")
        if found["precision"] not in PRECISIONS:
            raise PackageError(
                f"{name}: precision is {found['precision']!r}, expected one of "
                f"{', '.join(PRECISIONS)}; {_AGAIN}"
            )
        for key in ("inputs", "outputs"):
            found[key] = {
                port: _port(found[key][port], f"{name}: {key}.{port}") for port in found[key]
            }
        return cls(**found)


_KINDS: dict[str, tuple[type, ...]] = {
    "policy": (str,),
    "source": (str, type(None)),
    "weights_sha256": (str,),
    "tokenizer_sha256": (str,),
    "graph_sha256": (str,),
    "precision": (str,),
    "history": (int,),
    "chunk": (int,),
    "encoder": (str, type(None)),
    "inputs": (dict,),
    "outputs": (dict,),
    "opset": (int,),
    "agreement": (dict,),
    "versions": (dict,),
    "card": (dict,),
}


def _port(values: Any, name: str) -> Port:
    shape = values.get("shape") if isinstance(values, dict) else None
    is_shape = isinstance(shape, list) and all(type(n) is int and n >= 0 for n in shape)
    if not is_shape or values.get("dtype") not in DTYPES:
        raise PackageError(
            f"{name} is {values!r}, expected a dtype of {', '.join(DTYPES)} and a shape; {_AGAIN}"
        )
    return Port(values["dtype"], tuple(values["shape"]))


def read_description(folder: Path) -> tuple[Description, Spec]:
    """What `export.json` and `spec.json` say, and that the two fit.

    Raises PackageError if a file is missing, damaged or of another version, or they do not fit.
    """
    if not folder.is_dir():
        raise PackageError(
            f"{folder}: no such folder; write it by: vla export onnx POLICY {folder}"
        )
    names = (EXPORT_FILE, GRAPH_FILE, SPEC_FILE, INSTRUCTIONS_FILE)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise PackageError(f"{folder}: no exported policy, it lacks {', '.join(missing)}; {_AGAIN}")
    path = folder / EXPORT_FILE
    try:
        description = Description.from_dict(read_json(path), path)
        spec = Spec.load(folder / SPEC_FILE)
    except PackageError:
        raise
    except UserError as error:
        raise PackageError(f"{error}; copy the folder again") from error
    _check_ports(description, spec, path)
    return description, spec


def _check_ports(description: Description, spec: Spec, path: Path) -> None:
    """Raises PackageError if the graph's inputs and outputs are not those of this spec."""
    chunk = Port("float32", (description.chunk, spec.action_dim))
    expected = {"actions": chunk, "is_finite": Port("bool", ())}
    for name, port in description.memory.items():
        expected[f"next.{name}"] = port
        if math.prod(port.shape) > MAX_MEMORY:
            raise PackageError(
                f"{path}: inputs.memory.{name} is {port}, expected at most {MAX_MEMORY} numbers "
                f"a robot; {_AGAIN}"
            )
    outputs = {name: port for name, port in description.outputs.items() if name != "logits"}
    if outputs != expected:
        raise PackageError(f"{path}: outputs are {_listed(outputs)}, expected {_listed(expected)}")
    known = {
        "state": Port("float32", (spec.state_dim,)),
        "indicator": Port("int64", ()),
        "noise": chunk,
    }
    for camera, size in spec.cameras.items():
        known[f"image.{camera}"] = Port("uint8", (*size, 3))
    for name, port in description.inputs.items():
        is_language = name == "language" and port.dtype == "float32" and len(port.shape) == 1
        if not (name.startswith("memory.") or is_language or known.get(name) == port):
            raise PackageError(
                f"{path}: inputs.{name} is {port}, expected one of {_listed(known)}; {_AGAIN}"
            )


def _listed(ports: Mapping[str, Port]) -> str:
    return ", ".join(f"{name} {port}" for name, port in ports.items())


def save_instructions(path: Path, vectors: Mapping[str, np.ndarray], dim: int) -> None:
    """Writes text -> float32 (E,); the texts stand in the file's header."""
    rows = [np.asarray(vector, np.float32) for vector in vectors.values()]
    vectors_NE = np.stack(rows) if rows else np.zeros((0, dim), np.float32)
    # safetensors sorts its tensors by name: one matrix keeps the order of the texts
    save_file({"vectors": vectors_NE}, path, metadata={"texts": json.dumps(list(vectors))})


def load_instructions(path: Path, dim: int) -> dict[str, np.ndarray]:
    """The inverse of `save_instructions`.

    Raises PackageError if the file is damaged, or its vectors are not of `dim` finite numbers.
    """
    try:
        check_plain_file(path)
        with safe_open(path, "numpy") as file:
            vectors_NE = file.get_tensor("vectors")
            texts = parse_json((file.metadata() or {}).get("texts", ""), path)
    except (OSError, SafetensorError, JsonError) as error:
        raise PackageError(f"{path}: cannot be read: {error}; copy the folder again") from error
    is_list = isinstance(texts, list) and all(isinstance(text, str) for text in texts)
    if not is_list or len(set(texts)) < len(texts):
        raise PackageError(f"{path}: expected distinct texts in its header; {_AGAIN}")
    right = vectors_NE.dtype == np.float32 and vectors_NE.shape == (len(texts), dim)
    if not right or not np.isfinite(vectors_NE).all():
        raise PackageError(
            f"{path}: holds {vectors_NE.dtype} {vectors_NE.shape}, expected finite float32 "
            f"({len(texts)}, {dim}); {_AGAIN}"
        )
    return dict(zip(texts, vectors_NE, strict=True))


__all__ = [
    "EXPORT_FILE",
    "GRAPH_FILE",
    "INSTRUCTIONS_FILE",
    "PRECISIONS",
    "README_FILE",
    "SPEC_FILE",
    "Description",
    "PackageError",
    "Port",
    "load_instructions",
    "read_description",
    "save_instructions",
]
