"""A policy's control step as a graph: a function of tensors, its memory among them.

Inputs by name, B robots each:

    image.CAMERA     uint8 (B, H, W, 3), of the cameras that the policy looks through
    state            float32 (B, S), robot units; if the spec has a state
    language         float32 (B, E), the sentence's vector; if the policy reads one
    indicator        int64 (B,), row of the advantage indicator or -1; if the policy reads one
    noise            float32 (B, K, A), from which a flow starts, zeros for its mode; for flows
    memory.NAME      what the policy remembers; zeros and False start an episode

Outputs:

    actions          float32 (B, K, A), robot units, within the spec's limits
    is_finite        bool (B,), False if NaN or infinity came out
    logits           float32 (B, N, V), of heads that draw all tokens at once
    next.NAME        the memory of the next step

B robots, S state dimensions, E numbers of an instruction's vector, K actions per chunk, A action
dimensions, N tokens of a chunk, V ids.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from vla.common.errors import UserError
from vla.models.policy import Policy
from vla.types.policy import PolicyOutput, PureStep

EXAMPLE_ROBOTS = 2
"""Not 1: torch.export takes sizes of 0 and 1 for constants."""


class ExportError(UserError):
    """A policy cannot be exported, or what was exported does not do what the policy does."""


class StepGraph(nn.Module):
    """The step of a policy, whose inputs and outputs are tensors in a fixed order.

    Attributes:
        policy: in evaluation mode.
        inputs, outputs: names, in order.

    Raises ExportError if the policy cannot be written as a graph.
    """

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        check_exportable(policy)
        self.policy = policy
        self.cameras = policy.cameras or tuple(policy.spec.cameras)
        self._memory = cast(PureStep, policy).empty_memory()
        example = self.example(1)
        self.inputs = tuple(example)
        # one pass tells which outputs there are, and plans the trunk: a plan looks at numbers,
        # which a trace cannot
        with torch.no_grad():
            self.outputs = tuple(self._named_outputs(example))

    def example(self, robots: int) -> dict[str, Tensor]:
        """Valid inputs: black images, zeros, and the start of an episode."""
        policy = self.policy
        spec = policy.spec
        B = robots
        found: dict[str, Tensor] = {}
        for camera in self.cameras:
            height, width = spec.cameras[camera]
            found[f"image.{camera}"] = torch.zeros(B, height, width, 3, dtype=torch.uint8)
        if spec.state_dim:
            found["state"] = torch.zeros(B, spec.state_dim)
        if policy.language.dim:
            found["language"] = torch.zeros(B, policy.language.dim)
            if policy.config.indicator:
                found["indicator"] = torch.full((B,), -1, dtype=torch.long)
        if _has_noise(policy):
            found["noise"] = torch.zeros(B, policy.chunk, spec.action_dim)
        for name, row in self._memory.items():
            found[f"memory.{name}"] = row.repeat(B, *(1,) * (row.ndim - 1))
        return found

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The tensors of `outputs` for those of `inputs`."""
        return tuple(self._named_outputs(dict(zip(self.inputs, inputs, strict=True))).values())

    def _named_outputs(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        policy = self.policy
        images = {camera: inputs[f"image.{camera}"] for camera in self.cameras}
        robots = next(iter(inputs.values())).shape[0]
        state_BS = inputs.get("state", torch.zeros(robots, 0))
        memory = {name: inputs[f"memory.{name}"] for name in self._memory}
        step = cast(PureStep, policy).pure_step
        output, following = step(images, state_BS, self._language(inputs, robots), memory)
        chunk_BKA = _chunk(output, inputs)
        is_finite_B = _finite(chunk_BKA) & _finite(output.features[:, -1])
        found = {
            "actions": policy.within_limits(chunk_BKA),
            "is_finite": is_finite_B,
        }
        logits = getattr(output.actions, "logits", None)
        if logits is not None:
            found["logits"] = logits[:, -1]
        for name in self._memory:
            found[f"next.{name}"] = following[name]
        return found

    def _language(self, inputs: dict[str, Tensor], robots: int) -> Tensor:
        """What `Policy.embed_instructions` makes of the sentences' vectors."""
        if "language" not in inputs:
            return torch.zeros(robots, 0)
        vectors_BE = self.policy.scaled_language(inputs["language"])
        if "indicator" in inputs:
            vectors_BE = vectors_BE + self.policy.indicator.of_rows(inputs["indicator"])
        return vectors_BE


def exported_program(graph: StepGraph) -> torch.export.ExportedProgram:
    """The graph by torch.export, for any number of robots."""
    robots = torch.export.Dim("robots", min=1)
    example = tuple(graph.example(EXAMPLE_ROBOTS).values())
    sizes = tuple({0: robots} for _ in example)
    with torch.no_grad(), _as_at_export():
        return torch.export.export(graph, example, dynamic_shapes={"inputs": sizes}, strict=False)


def check_exportable(policy: Policy) -> None:
    """Raises ExportError if the policy cannot be written as a graph, with what to do instead."""
    kind = str(policy.config.model_dump()["type"])
    if policy.robot_names:
        raise ExportError(
            f"policy: {kind} is for several robots ({', '.join(policy.robot_names)}), a graph is "
            "for one; take one out first: vla policy extract POLICY ROBOT OUT"
        )
    remedy = "serve it by torch instead: vla serve POLICY"
    if not isinstance(policy, PureStep):
        raise ExportError(
            f"policy: the step of {kind} is no function of tensors of fixed sizes, expected one "
            f"such as rt1, q_transformer or mlp; {remedy}"
        )
    if policy.config.option("backbone") is not None:
        raise ExportError(
            "policy.backbone: a model of transformers in place of the native trunk is not "
            f"exported, expected null; {remedy}"
        )
    if policy.tokenizer.grammar is not None and _speaks_in_tokens(policy):
        name = type(policy.tokenizer).__name__
        raise ExportError(
            f"policy.tokenizer: which ids of {name} are valid depends on the ids before, which a "
            f"graph cannot decide, expected one such as bins; {remedy}"
        )


def _speaks_in_tokens(policy: Policy) -> bool:
    with torch.no_grad():
        batch = policy.spec.fake_batch(1, 1, policy.chunk)
        known = list(policy.language.cached())
        if known:
            batch.instruction[:] = known[:1]
        return hasattr(policy(batch).actions, "tokens")


def _has_noise(policy: Policy) -> bool:
    from vla.models.heads.flow import FlowHead

    return any(isinstance(module, FlowHead) for module in policy.modules())


def _chunk(output: PolicyOutput, inputs: dict[str, Tensor]) -> Tensor:
    """The chunk (B, K, A) of the present step."""
    actions: Any = output.actions
    if "noise" in inputs:
        return cast(Tensor, actions.flowed(inputs["noise"][:, None])[:, -1])
    return cast(Tensor, actions.mode()[:, -1])


def _finite(values: Tensor) -> Tensor:
    return torch.isfinite(values).flatten(1).all(1)


@contextlib.contextmanager
def _as_at_export() -> Iterator[None]:
    """Without the fused kernels of evaluation, which no other runtime has."""
    # nn.TransformerEncoderLayer and nn.MultiheadAttention take them where no gradient is wanted
    had = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(had)


__all__ = ["ExportError", "StepGraph", "check_exportable", "exported_program"]
