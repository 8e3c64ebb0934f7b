"""Writing the folder of an exported policy: the graph, what it says of itself, and its check.

What the graph does is compared with the policy before the folder appears.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

import vla
from vla.common.atomic import check_replaceable, replace_folder, write_json
from vla.common.foreign.checksums import checksums_of_written
from vla.common.machine_faults import naming
from vla.export.agreement import Agreement, agreement_on_noise
from vla.export.graph import ExportError, StepGraph
from vla.export.onnx import OPSET, Precision, onnx_bytes, quantised
from vla.export.package_files import (
    EXPORT_FILE,
    GRAPH_FILE,
    INSTRUCTIONS_FILE,
    PRECISIONS,
    README_FILE,
    SPEC_FILE,
    Description,
    Port,
    save_instructions,
)
from vla.export.runtime import load
from vla.models.policy import Policy


def export_onnx(
    policy: Policy,
    out: str | Path,
    *,
    precision: Precision = "float32",
    instructions: Sequence[str] = (),
) -> Description:
    """Writes the policy as a folder that acts by ONNX Runtime, and compares the two.

    Args:
        policy: on the CPU, in evaluation mode.
        out: a folder that does not exist, or holds an exported policy, which is replaced.
        precision: float32, or int8 for products of 8-bit weights.
        instructions: texts to be known without a text encoder, beside those of the training.

    Raises:
        ExportError: the policy cannot be exported, the folder holds something else, or the graph
            does not do what the policy does.
        UserError: a library of the extra `export` is not installed.
        LanguageError: the text encoder of further instructions cannot be loaded.
    """
    out = Path(out)
    check_replaceable(out)
    if out.exists() and any(out.iterdir()) and not (out / EXPORT_FILE).is_file():
        raise ExportError(f"{out}: is there already, and no exported policy; name another folder")
    if policy.training or policy.device.type != "cpu":
        raise ExportError(
            f"policy: is on {policy.device}, training: {policy.training}; expected one on the CPU "
            "in evaluation mode: policy.cpu().eval()"
        )
    if precision not in PRECISIONS:
        raise ExportError(f"precision: is {precision!r}, expected one of {', '.join(PRECISIONS)}")
    graph = StepGraph(policy)
    data = onnx_bytes(graph)
    # vectors of sentences alone: what is behind them is an input of its own
    policy.language.embed(list(instructions))
    description = _description(graph, data)
    agreement = _tried(policy, data, description)
    _require(agreement)
    if precision == "int8":
        # after the float32 graph was found right: what differs now is the rounding of weights
        data = quantised(data)
        graph_sha256 = hashlib.sha256(data).hexdigest()
        description = dataclasses.replace(
            description, precision=precision, graph_sha256=graph_sha256
        )
        agreement = _tried(policy, data, description)
    found = dataclasses.replace(description, agreement=agreement.to_dict())
    replace_folder(out, lambda folder: _write(folder, policy, data, found))
    return found


def _tried(policy: Policy, data: bytes, description: Description) -> Agreement:
    """How far the graph is from the policy, loaded as it will be."""
    # a full disk of temporary files is another one than that of the export
    with tempfile.TemporaryDirectory() as trial, naming(Path(trial)):
        _write(Path(trial), policy, data, description)
        return agreement_on_noise(policy, load(trial))


def _write(folder: Path, policy: Policy, data: bytes, description: Description) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    dim = policy.language.dim
    cached = policy.language.cached() if dim else {}
    vectors = {text: vector_E.numpy() for text, vector_E in cached.items()}
    # without the README, which is for people: they may write into it
    with checksums_of_written(folder, without=[README_FILE]):
        (folder / GRAPH_FILE).write_bytes(data)
        policy.spec.save(folder / SPEC_FILE)
        save_instructions(folder / INSTRUCTIONS_FILE, vectors, dim)
        write_json(folder / EXPORT_FILE, description.to_dict())
        if description.agreement:
            (folder / README_FILE).write_text(_readme(description), encoding="utf-8")


def weights_digest(policy: Policy) -> str:
    """The SHA-256 of a policy's tensors and their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(policy.weights().items()):
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(name.encode())
        # as bytes: numpy has no bfloat16
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def tokenizer_digest(policy: Policy) -> str:
    """The SHA-256 of what is stored of a policy's tokenizer."""
    text = json.dumps(policy.tokenizer.to_dict(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _description(graph: StepGraph, data: bytes) -> Description:
    policy = graph.policy
    inputs = graph.example(1)
    with torch.no_grad():
        outputs = dict(zip(graph.outputs, graph(*inputs.values()), strict=True))
    versions = {"vla": vla.__version__}
    for name in ("torch", "onnx", "onnxscript", "onnxruntime"):
        versions[name] = importlib.metadata.version(name)
    return Description(
        policy=str(policy.config.model_dump()["type"]),
        source=policy.source,
        weights_sha256=weights_digest(policy),
        tokenizer_sha256=tokenizer_digest(policy),
        graph_sha256=hashlib.sha256(data).hexdigest(),
        precision="float32",
        history=policy.history,
        chunk=policy.chunk,
        encoder=policy.language.name,
        inputs=_ports(inputs),
        outputs=_ports(outputs),
        opset=OPSET,
        versions=versions,
        card=cast(dict[str, Any], json.loads(json.dumps(policy.card))),
    )


def _ports(tensors: dict[str, Tensor]) -> dict[str, Port]:
    """Types and shapes of one robot."""
    found = {}
    for name, tensor in tensors.items():
        found[name] = Port(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape[1:]))
    return found


def _require(agreement: Agreement) -> None:
    """Raises ExportError if a graph in float32 is not the policy."""
    if not agreement.is_exact:
        raise ExportError(
            "policy: the graph does not do what the policy does on frames of noise: "
            f"{agreement.unexplained} of {agreement.tokens} tokens differ, actions by up to "
            f"{agreement.action_difference:.2g} of their range; serve it by torch: vla serve POLICY"
        )


def _readme(description: Description) -> str:
    found = description.agreement
    lines = [
        "# Exported policy",
        "",
        f"`{description.policy}` in {description.precision}, ONNX opset {description.opset}, "
        f"history {description.history}, chunks of {description.chunk}.",
        "",
        "```python",
        "from vla.export import load",
        "",
        'actor = load(".")  # numpy, onnxruntime and safetensors; no torch',
        "actions, memory = actor.act(observation, memory)  # memory=None starts an episode",
        "```",
        "",
        f"Compared with the policy over {found['steps']} steps of noise when it was written: "
        f"actions differ by at most {found['largest_action_difference_of_range']:.2g} of their "
        "range" + _tokens_sentence(found) + ".",
        "",
        "Inputs and outputs, B robots:",
        "",
    ]
    for ports in (description.inputs, description.outputs):
        lines += [f"- `{name}`: {port}" for name, port in ports.items()]
    return "\n".join(lines) + "\n"


def _tokens_sentence(found: Any) -> str:
    if found["token_agreement"] is None:
        return ""
    return f", {found['token_agreement']:.2%} of the tokens are equal"


__all__ = ["export_onnx", "tokenizer_digest", "weights_digest"]
