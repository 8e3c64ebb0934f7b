"""The base of policies that act by another policy: one checkpoint, used like any other policy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from jaxtyping import Float
from pydantic import model_validator
from torch import Tensor

from vla.config import Choice
from vla.models.policy import Policy, PolicyConfig
from vla.types import Spec

WRAPPERS = ("conditioned", "guided", "multi_robot", "one_step")
"""Policies that hold a policy: none may hold another of them in a JSON schema, which would have no
end."""


class PolicyWrapperConfig(PolicyConfig, ABC):
    """Base of the configs of policies that act by another one."""

    policy: Annotated[Any, Choice("policies", unlisted=WRAPPERS)]
    """Who is asked."""

    @model_validator(mode="before")
    @classmethod
    def _as_inside(cls, values: Any) -> Any:
        """Context and chunk are those of the policy inside."""
        inside = values.get("policy") if isinstance(values, dict) else None
        if isinstance(inside, PolicyConfig):
            return values | {"history": inside.history, "chunk": inside.chunk}
        return values

    @property
    def weights_file(self) -> str:
        return str(self.policy.weights_file)

    def build(self, spec: Spec, *, from_checkpoint: bool = False) -> PolicyWrapper:
        return self.around(self.policy.new(spec, from_checkpoint=from_checkpoint))

    def build_for(self, spec: Spec, folder: Path) -> PolicyWrapper:
        return self.around(self.policy.build_for(spec, folder))

    @abstractmethod
    def around(self, inside: Policy) -> PolicyWrapper:
        """The wrapper of this policy, with new parts of its own."""


class PolicyWrapper(Policy):
    """Acts by the policy inside, which is what learns. A subclass defines `forward` and `step`."""

    config: PolicyWrapperConfig

    def __init__(self, config: PolicyWrapperConfig, policy: Policy) -> None:
        super().__init__(config, policy.spec, tokenizer=policy.tokenizer, language=None)
        self.policy = policy
        self.language = policy.language
        self.card = policy.card
        self.feature_dim = policy.feature_dim
        # what simulation asks of the policy that acts: here as the policy inside has it
        self.return_conditioned = policy.return_conditioned
        self.success_conditioned = policy.success_conditioned
        self.counts_steps = policy.counts_steps
        self.image_sizes = policy.image_sizes

    @property
    def unwrapped(self) -> Policy:
        return self.policy

    def remember(
        self,
        memory: Any,
        actions: Float[Tensor, "B K A"],
    ) -> Any:
        return self.policy.remember(memory, actions)

    def fit(
        self,
        actions: Any,
        states: Any,
        instructions: Sequence[str],
        *,
        lengths: Sequence[int] | None = None,
    ) -> None:
        self.policy.fit(actions, states, instructions, lengths=lengths)

    def use_tokenizer(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.policy.use_tokenizer(tokenizer)

    def weights(self) -> dict[str, Tensor]:
        """The tensors of the policy inside, and the wrapper's own."""
        # the policy inside may store less than its state (a frozen base), or merge its adapters
        weights = {f"policy.{name}": tensor for name, tensor in self.policy.weights().items()}
        for name, tensor in self.state_dict().items():
            if not name.startswith("policy."):
                weights[name] = tensor
        return weights

    def save_extra_files(self, folder: Path) -> None:
        self.policy.save_extra_files(folder)


__all__ = ["WRAPPERS", "PolicyWrapper", "PolicyWrapperConfig"]
