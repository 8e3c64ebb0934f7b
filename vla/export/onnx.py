"""An exported program as ONNX, in float32 or with weights of 8 bits.

Dynamic quantisation: products of matrices (MatMul, Gemm) take 8-bit weights, and round what comes
in by its own greatest value at every step. Convolutions stay as they are: static quantisation of
them has to be calibrated, and was not faster where it was tried.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch

from vla.common.errors import UserError
from vla.export.graph import ExportError, StepGraph, exported_program

OPSET = 20
Precision = Literal["float32", "int8"]
QUANTISED = ["MatMul", "Gemm"]


def onnx_bytes(graph: StepGraph) -> bytes:
    """The graph as the content of an ONNX file, its weights inside.

    Raises:
        ExportError: an operation of the policy has no counterpart in ONNX.
        UserError: onnx or onnxscript is not installed.
    """
    require_onnx()
    program = exported_program(graph)
    try:
        with _quiet():
            written = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=OPSET,
                input_names=list(graph.inputs),
                output_names=list(graph.outputs),
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        reason = " ".join(str(error).split())[:300]
        raise ExportError(
            f"policy: cannot be written as ONNX: {reason}; serve it by torch: vla serve POLICY"
        ) from error
    assert written is not None
    return _serialised(_bare(written.model_proto))


def require_onnx() -> None:
    """Raises UserError if a library of the extra `export` is missing."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            __import__(name)
        except ImportError:
            raise UserError(f"{name} is not installed: pip install 'vla[export]'") from None


def _bare(model: Any) -> Any:
    """The model without remarks on the code it comes from, which hold paths of this machine."""
    for nodes in (model.graph.node, *(function.node for function in model.functions)):
        for node in nodes:
            node.ClearField("metadata_props")
            node.ClearField("doc_string")
    for values in (model.graph.value_info, model.graph.input, model.graph.output):
        for value in values:
            value.ClearField("metadata_props")
    model.graph.ClearField("metadata_props")
    model.ClearField("metadata_props")
    return model


def quantised(data: bytes) -> bytes:
    """The same graph with weights of 8 bits."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = Path(folder) / "int8.onnx"
        quantize_dynamic(
            onnx.load_model_from_string(data),
            path,
            op_types_to_quantize=QUANTISED,
            per_channel=True,
            weight_type=QuantType.QInt8,
        )
        return path.read_bytes()


def _serialised(model: Any) -> bytes:
    try:
        return bytes(model.SerializeToString())
    except ValueError as error:  # protocol buffers hold at most 2 GiB
        raise ExportError(
            f"policy: its graph is larger than an ONNX file can be ({error}), expected at most 2 "
            "GiB; serve it by torch: vla serve POLICY"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the remarks of the exporter and the quantiser, which are for their own authors."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


__all__ = ["OPSET", "Precision", "onnx_bytes", "quantised", "require_onnx"]
