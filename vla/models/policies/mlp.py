"""A multilayer perceptron over the robot's state, and the instruction if there are several tasks.

The policy of offline RL from states (d3rlpy's and CORL's sizes). Its features are what it sees, so
that critics see the state itself and share no layer with it.

B windows or robots, T steps, S state dimensions, E numbers of an instruction's vector, U distinct
instructions, F = S + E, R hidden states that the head reads, W width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from vla.config import Choice, PathText, register
from vla.models.heads.gaussian import GaussianConfig
from vla.models.policy import Policy, PolicyConfig
from vla.models.roles import LANGUAGE, STATE_INPUT, TRUNK, Role, roles_of
from vla.tokenizers.bins import BinsConfig
from vla.types import Batch, Observation, PolicyOutput, Spec, SpecError

# ReLU may overwrite what it is given: its gradient needs its output, a linear layer's its input
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": partial(nn.ReLU, inplace=True),
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


@register("policies", "mlp")
class MLPConfig(PolicyConfig):
    """A multilayer perceptron over the state: no cameras, no history, thousands of decisions per
    second."""

    type: Literal["mlp"] = "mlp"
    history: int = Field(default=1, ge=1, le=1)
    """It sees the present step alone."""
    hidden: int = Field(default=256, ge=1, le=65536)
    """Width of the hidden layers."""
    depth: int = Field(default=2, ge=1, le=1000)
    """Hidden layers."""
    activation: Literal["relu", "gelu", "silu", "tanh"] = "relu"
    """What follows each hidden layer."""
    language: PathText | None = None
    """Frozen text encoder of the instruction, minilm (bundled) or one of Hugging Face; null: no
    instruction."""
    tokenizer: Annotated[Any, Choice("tokenizers")] = BinsConfig()
    """Action tokenizer, for heads that speak in tokens."""
    head: Annotated[Any, Choice("heads")] = GaussianConfig()
    """From the last hidden layer to actions."""

    @model_validator(mode="after")
    def _has_what_is_standardised(self) -> MLPConfig:
        if self.language is None and self.standardise_language:
            raise ValueError(
                "standardise_language: there is no instruction; set language: minilm, or drop it"
            )
        return self

    def build(self, spec: Spec, *, from_checkpoint: bool = False) -> MLPPolicy:
        """Raises SpecError if the spec has no state, HeadError if head and tokenizer do not go
        together."""
        return MLPPolicy(self, spec)


@dataclass(frozen=True)
class MLPMemory:
    """The instructions of B robots and their vectors (B, E); nothing of past steps."""

    instruction: tuple[str, ...]
    vectors: Tensor

    @property
    def batch_size(self) -> int:
        return len(self.instruction)

    def select(self, rows: Sequence[int]) -> MLPMemory:
        """The memory of some robots, in the order given."""
        index = list(rows)
        return MLPMemory(tuple(self.instruction[row] for row in index), self.vectors[index])

    @classmethod
    def stack(cls, memories: Sequence[MLPMemory]) -> MLPMemory:
        """The memories of several groups of robots as one."""
        instruction: list[str] = []
        for memory in memories:
            instruction += memory.instruction
        vectors_BE = torch.cat([memory.vectors for memory in memories])
        return cls(tuple(instruction), vectors_BE)


class MLPPolicy(Policy):
    """See the module's docstring. Every step of a window is seen for itself."""

    config: MLPConfig

    def __init__(self, config: MLPConfig, spec: Spec) -> None:
        if not spec.state_dim:
            raise SpecError(
                "policy mlp sees the state alone, and the spec has none; use a policy that has "
                "cameras"
            )
        # what is not looked at need not be rendered, loaded or fit
        spec = dataclasses.replace(spec, cameras={})
        super().__init__(
            config,
            spec,
            tokenizer=config.tokenizer.build(spec, config.chunk),
            language=config.language,
        )
        self.feature_dim = spec.state_dim + self.language.dim
        self.num_readouts = config.head.num_readouts(self.tokenizer)
        activation = ACTIVATIONS[config.activation]
        layers: list[nn.Module] = []
        inputs = self.feature_dim
        for layer in range(config.depth):
            is_last = layer == config.depth - 1
            # the last layer has an output for each of the hidden states that the head reads
            outputs = config.hidden * (self.num_readouts if is_last else 1)
            layers += [nn.Linear(inputs, outputs), activation()]
            inputs = outputs
        # the activation after the last layer stays: its outputs are the head's hidden states
        self.trunk = nn.Sequential(*layers)
        self.head = config.head.build(self.tokenizer, spec, width=config.hidden)

    def parameter_roles(self) -> dict[str, Role]:
        # the first layer reads state and instruction side by side, a column for each dimension
        named = {"trunk": TRUNK, "trunk.0": TRUNK | STATE_INPUT | LANGUAGE}
        return super().parameter_roles() | roles_of(self, named)

    def forward(self, batch: Batch) -> PolicyOutput:
        """Output for every step of windows of any length."""
        return self._output(self.features(batch))

    def features(self, batch: Batch) -> Float[Tensor, "B T F"]:
        """The normalised state and the instruction: no layer is asked."""
        vectors_BE = None
        if self.config.language is not None:
            vectors_BE = self._vectors(batch.instruction)
        return self._seen(batch.state, vectors_BE)

    def step(
        self, observation: Observation, memory: MLPMemory | None
    ) -> tuple[PolicyOutput, MLPMemory]:
        """Equal to `forward` over the one step; an instruction is embedded when it changes."""
        instruction = tuple(observation.instruction)
        if memory is None or memory.instruction != instruction:
            memory = MLPMemory(instruction, self._vectors(instruction))
        features_B1F = self._seen(observation.state[:, None], memory.vectors)
        return self._output(features_B1F), memory

    def empty_memory(self) -> dict[str, Tensor]:
        """See `vla.types.policy.PureStep`: nothing of past steps."""
        return {}

    def pure_step(
        self,
        images: Mapping[str, Tensor],
        state: Float[Tensor, "B S"],
        language: Float[Tensor, "B E"],
        memory: Mapping[str, Tensor],
    ) -> tuple[PolicyOutput, dict[str, Tensor]]:
        """See `vla.types.policy.PureStep`."""
        return self._output(self._seen(state[:, None], language)), {}

    def _seen(
        self,
        state_BTS: Float[Tensor, "B T S"],
        vectors_BE: Float[Tensor, "B E"] | None,
    ) -> Tensor:
        features_BTF = self.normalised_state(state_BTS)
        if vectors_BE is None or not vectors_BE.shape[1]:
            return features_BTF
        T = state_BTS.shape[1]
        vectors_BTE = vectors_BE[:, None].expand(-1, T, -1)
        return torch.cat([features_BTF, vectors_BTE], dim=-1)

    def _output(self, features_BTF: Float[Tensor, "B T F"]) -> PolicyOutput:
        hidden_BTRW = self.trunk(features_BTF).unflatten(
            -1, (self.num_readouts, self.config.hidden)
        )
        return PolicyOutput(features_BTF, self.head(hidden_BTRW))

    def _vectors(self, instruction: Sequence[str]) -> Float[Tensor, "B E"]:
        if self.config.language is None:
            # vectors of no numbers, so that a memory can be selected and stacked all the same
            return torch.empty(len(instruction), 0, device=self.device)
        vectors_UE, index_B = self.embed_instructions(instruction)
        return vectors_UE[index_B]


__all__ = ["MLPConfig", "MLPMemory", "MLPPolicy"]
