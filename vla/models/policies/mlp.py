"""A multilayer perceptron over the robot's state, and the instruction where there are several tasks.

The policy of offline RL from states (d3rlpy's and CORL's sizes). Its features are what it sees, so that critics see the
state itself and share no layer with it.

B windows, T steps, S state dimensions, E numbers of an instruction's vector, F = S + E, R hidden states that the head
reads, W width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from vla.config import Choice, register
from vla.models.heads.gaussian import GaussianConfig
from vla.models.policy import Policy, PolicyConfig
from vla.tokenizers.bins import BinsConfig
from vla.types import Batch, Observation, PolicyOutput, Spec, SpecError

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": partial(nn.ReLU, inplace=True),
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


@register("policies", "mlp")
class MLPConfig(PolicyConfig):
    """A multilayer perceptron over the state: no cameras, no history, thousands of decisions per second."""

    type: Literal["mlp"] = "mlp"
    history: int = Field(default=1, ge=1, le=1)
    """It sees the present step alone."""
    hidden: int = Field(default=256, ge=1)
    """Width of the hidden layers."""
    depth: int = Field(default=2, ge=1)
    """Hidden layers."""
    activation: Literal["relu", "gelu", "silu", "tanh"] = "relu"
    """What follows each hidden layer."""
    language: str | None = None
    """Frozen text encoder of the instruction, minilm (bundled) or one of Hugging Face; null: no instruction."""
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
        """Raises SpecError where the spec has no state, HeadError where head and tokenizer do not go together."""
        return MLPPolicy(self, spec)


@dataclass(frozen=True)
class MLPMemory:
    """The instructions of B robots and their vectors (B, E); of past steps there is nothing to remember."""

    instruction: tuple[str, ...]
    vectors: Tensor

    @property
    def batch_size(self) -> int:
        return len(self.instruction)

    def select(self, rows: Sequence[int]) -> MLPMemory:
        """The memory of some robots, in the order given."""
        return MLPMemory(tuple(self.instruction[i] for i in rows), self.vectors[list(rows)])

    @classmethod
    def stack(cls, memories: Sequence[MLPMemory]) -> MLPMemory:
        """The memories of several groups of robots as one."""
        return cls(
            tuple(text for m in memories for text in m.instruction),
            torch.cat([m.vectors for m in memories]),
        )


class MLPPolicy(Policy):
    """See the module's docstring. Every step of a window is seen for itself."""

    config: MLPConfig

    def __init__(self, config: MLPConfig, spec: Spec) -> None:
        if not spec.state_dim:
            raise SpecError(
                "policy mlp sees the state alone, and the spec has none; use a policy that has cameras"
            )
        spec = dataclasses.replace(
            spec, cameras={}
        )  # what is not looked at need not be rendered, loaded or fit
        super().__init__(
            config,
            spec,
            tokenizer=config.tokenizer.build(spec, config.chunk),
            language=config.language,
        )
        self.feature_dim = spec.state_dim + self.language.dim
        self.reads = config.head.num_readouts(self.tokenizer)
        activation = ACTIVATIONS[config.activation]
        layers: list[nn.Module] = []
        inputs = self.feature_dim
        for layer in range(config.depth):
            # the last layer says what each of the head's tokens is read from
            outputs = config.hidden * (self.reads if layer == config.depth - 1 else 1)
            layers += [nn.Linear(inputs, outputs), activation()]
            inputs = outputs
        self.trunk = nn.Sequential(*layers)
        self.head = config.head.build(self.tokenizer, spec, width=config.hidden)

    def forward(self, batch: Batch) -> PolicyOutput:
        """Output for every step of windows of any length."""
        return self._output(self.features(batch))

    def features(self, batch: Batch) -> Float[Tensor, "B T F"]:
        """The normalised state and the instruction: no layer is asked."""
        return self._seen(
            batch.state, None if self.config.language is None else self._vectors(batch.instruction)
        )

    def step(
        self, observation: Observation, memory: MLPMemory | None
    ) -> tuple[PolicyOutput, MLPMemory]:
        """Equal to `forward` over the one step; an instruction is embedded when it changes."""
        instruction = tuple(observation.instruction)
        if memory is None or memory.instruction != instruction:
            memory = MLPMemory(instruction, self._vectors(instruction))
        return self._output(self._seen(observation.state[:, None], memory.vectors)), memory

    def _seen(
        self, state_BTS: Float[Tensor, "B T S"], vectors_BE: Float[Tensor, "B E"] | None
    ) -> Tensor:
        features_BTF = self.normalised_state(state_BTS)
        if vectors_BE is None or not vectors_BE.shape[1]:
            return features_BTF
        return torch.cat(
            [features_BTF, vectors_BE[:, None].expand(-1, state_BTS.shape[1], -1)], dim=-1
        )

    def _output(self, features_BTF: Float[Tensor, "B T F"]) -> PolicyOutput:
        hidden_BTRW = self.trunk(features_BTF).unflatten(-1, (self.reads, self.config.hidden))
        return PolicyOutput(features_BTF, self.head(hidden_BTRW))

    def _vectors(self, instruction: Sequence[str]) -> Float[Tensor, "B E"]:
        if self.config.language is None:
            return torch.empty(len(instruction), 0, device=self.device)
        vectors_UE, index_B = self.embed_instructions(instruction)
        return vectors_UE[index_B]


__all__ = ["MLPConfig", "MLPMemory", "MLPPolicy"]
