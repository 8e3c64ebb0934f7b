"""Policies as graphs: torch.export, ONNX, a folder that acts without torch.

    from vla.export import load
    actor = load("exported")  # needs numpy, onnxruntime and safetensors

The names are loaded when they are first used, so that what acts imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vla.export.graph import ExportError, StepGraph, exported_program
    from vla.export.lerobot import export_lerobot
    from vla.export.package import export_onnx
    from vla.export.package_files import PackageError
    from vla.export.runtime import ArrayObservation, ExportedMemory, ExportedPolicy, load

_HOME = {
    "ArrayObservation": "runtime",
    "ExportError": "graph",
    "ExportedMemory": "runtime",
    "ExportedPolicy": "runtime",
    "PackageError": "package_files",
    "StepGraph": "graph",
    "export_lerobot": "lerobot",
    "export_onnx": "package",
    "exported_program": "graph",
    "load": "runtime",
}

__all__ = [
    "ArrayObservation",
    "ExportError",
    "ExportedMemory",
    "ExportedPolicy",
    "PackageError",
    "StepGraph",
    "export_lerobot",
    "export_onnx",
    "exported_program",
    "load",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'vla.export' has no attribute {name!r}")
    return getattr(importlib.import_module(f"vla.export.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
