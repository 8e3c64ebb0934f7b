"""One network for several robots (cross-embodiment): a shared trunk, and for each robot its own cameras, state and actions.

Every robot has a whole policy of its own, built from one policy config for its own spec: tokenizer, heads, state embedding
and statistics are its own. Their trunks (vision, instruction, transformer) are the very same parameters (see
`vla.models.transfer.shared_trunk`). A batch of several robots goes through them robot by robot, and the outputs are joined. `robot(name)`
takes one of them out: an ordinary policy, to be saved, evaluated and fine-tuned as any other.

B windows, T steps, K actions per chunk, A action dimensions of the largest robot, F features.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, Protocol, cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from vla.config import Choice, Config, ConfigError, UserError, register
from vla.data.loading.multi_robot import joint_spec, of_robot
from vla.models.policy import TOKENIZER_FILE, Policy, PolicyConfig
from vla.models.transfer.shared_trunk import share_trunk, tensor_of
from vla.types import ActionDistribution, Batch, PolicyOutput, Spec, SpecError

ROBOTS_FOLDER = "robots"
_NEEDS_STATE = {"state_token": False, "state_dropout": 0.0, "keyframe_loss": 0.0}
RobotName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
"""What stands in names of files, weights and metrics."""


class RobotConfig(Config):
    """One robot of a policy for several."""

    spec: dict[str, Any]
    """What it sees and does (`Spec.to_dict`)."""
    cameras: dict[str, str] | None = None
    """Camera slot of the trunk -> the robot's camera that stands in it; null: every camera is a slot of its name. Robots share
    what is learned for a slot, such as `front` or `wrist`; a robot may leave slots empty."""
    tokenizer: Annotated[Any, Choice("tokenizers")] | None = None
    """Its action tokenizer; null: of the policy's kind."""

    @field_validator("spec")
    @classmethod
    def _plain(cls, value: dict[str, Any]) -> dict[str, Any]:
        plain: dict[str, Any] = json.loads(json.dumps(Spec.from_dict(value).to_dict()))
        return plain

    @model_validator(mode="after")
    def _cameras_exist(self) -> RobotConfig:
        for slot, camera in (self.cameras or {}).items():
            if camera not in self.spec["cameras"]:
                has = ", ".join(self.spec["cameras"]) or "none"
                raise ValueError(
                    f"cameras.{slot}: the robot has no camera {camera!r}; it has: {has}"
                )
        return self

    @property
    def slots(self) -> dict[str, str]:
        """Camera slot -> the robot's camera."""
        return (
            {camera: camera for camera in self.spec["cameras"]}
            if self.cameras is None
            else self.cameras
        )


@register("policies", "multi_robot")
class MultiRobotConfig(PolicyConfig):
    """One trunk for several robots, each with its own actions. Made by training on a mixture (`data.mixture`)."""

    type: Literal["multi_robot"] = "multi_robot"
    policy: Annotated[Any, Choice("policies", unlisted=["guided", "multi_robot"])]
    """What each robot's policy is built from. Its `cameras` name camera slots."""
    robots: Annotated[dict[RobotName, RobotConfig], Field(min_length=1)]
    """The robots, by name; their order is their numbers in `Batch.robot`."""

    @model_validator(mode="before")
    @classmethod
    def _as_inside(cls, values: Any) -> Any:
        """Context and chunk are those of the robots' policies."""
        inside = values.get("policy") if isinstance(values, dict) else None
        if isinstance(inside, PolicyConfig):
            return values | {"history": inside.history, "chunk": inside.chunk}
        return values

    @field_validator("robots")
    @classmethod
    def _can_be_named(cls, value: dict[str, RobotConfig]) -> dict[str, RobotConfig]:
        if taken := [name for name in value if hasattr(nn.ModuleDict, name)]:
            raise ValueError(f"{taken[0]!r} cannot name a robot; choose another name")
        return value

    @property
    def tokenizer_files(self) -> tuple[str, ...]:
        return tuple(f"{ROBOTS_FOLDER}/{name}/{TOKENIZER_FILE}" for name in self.robots)

    @property
    def specs(self) -> dict[str, Spec]:
        return {name: Spec.from_dict(robot.spec) for name, robot in self.robots.items()}

    def cameras_of(self, name: str) -> dict[str, str]:
        """Camera -> slot of the cameras that a robot looks through, in the order of the slots, which is that of the policy's
        `cameras`, or in which the robots name them. Raises SpecError where there is none."""
        slots = getattr(self.policy, "cameras", None) or dict.fromkeys(
            s for r in self.robots.values() for s in r.slots
        )
        own = self.robots[name].slots
        if own and not set(own) & set(slots):
            raise SpecError(
                f"robot {name!r} has the camera slots {', '.join(own)}, none of {', '.join(slots)}"
            )
        return {own[slot]: slot for slot in slots if slot in own}

    def policy_of(self, name: str) -> PolicyConfig:
        """What the policy of one robot is built from."""
        fields, changes = type(self.policy).model_fields, dict[str, Any]()
        if "cameras" in fields:
            changes["cameras"] = list(self.cameras_of(name))
        if self.robots[name].tokenizer is not None:
            changes["tokenizer"] = self.robots[name].tokenizer
        if not self.robots[name].spec["state_names"]:
            changes |= {key: off for key, off in _NEEDS_STATE.items() if key in fields}
        config: PolicyConfig = self.policy.model_copy(update=changes)
        return config

    def build(self, spec: Spec, *, from_checkpoint: bool = False) -> MultiRobotPolicy:
        """Raises SpecError where `spec` is not the joint one of the robots, ConfigError where they can share nothing."""
        if problems := joint_spec(self.specs).differences(spec):
            raise SpecError(
                f"a policy for the robots {', '.join(self.robots)} learns from a mixture of their data (data.mixture): {problems[0]}"
            )
        return MultiRobotPolicy(self, from_checkpoint=from_checkpoint)


class RobotData(Protocol):
    """What a robot's policy is fitted to; `Windows` are such data."""

    actions: np.ndarray
    states: np.ndarray
    lengths: np.ndarray
    instructions: list[str]


class MultiRobotPolicy(Policy):
    """See the module's docstring. `spec` has room for all robots, `tokenizer` is that of the first.

    Attributes:
        robots: name -> its policy, which shares its trunk with the others.
        trunk: what is shared, under the names that it has in each robot's policy.
    """

    config: MultiRobotConfig

    def __init__(self, config: MultiRobotConfig, *, from_checkpoint: bool = False) -> None:
        policies: dict[str, Policy] = {}
        for name, spec in config.specs.items():  # the first has the pretrained weights that all get
            policies[name] = config.policy_of(name).new(
                spec, from_checkpoint=from_checkpoint or bool(policies)
            )
        first = next(iter(policies.values()))
        if odd := [
            name
            for name, policy in policies.items()
            if set(policy.weights()) != set(policy.state_dict())
        ]:
            kind = config.policy.model_dump()["type"]
            raise ConfigError(
                [
                    f"policy: {kind} keeps weights apart, which robots cannot share ({odd[0]}); use rt1"
                ]
            )
        super().__init__(config, joint_spec(config.specs), tokenizer=first.tokenizer, language=None)
        inside = first.config.model_copy(
            update={
                k: getattr(config.policy, k)
                for k in ("cameras", "tokenizer", *_NEEDS_STATE)
                if hasattr(config.policy, k)
            }
        )
        self.config = config.model_copy(update={"policy": inside})  # a checkpoint fetches nothing
        self.language, self.feature_dim = first.language, first.feature_dim
        shared = share_trunk(
            list(policies.values()), [config.cameras_of(name) for name in policies]
        )
        if len(policies) > 1 and not shared:
            raise ConfigError(["policy: these robots' policies have no parameter in common"])
        self.trunk = _tree(
            shared
        )  # before the robots: named_parameters tells a shared one under its first name
        self.robots = nn.ModuleDict(dict[str, nn.Module](policies))
        for policy in policies.values():
            policy.language = self.language

    @property
    def robot_names(self) -> tuple[str, ...]:
        return tuple(self.robots)

    # --- learning ---------------------------------------------------------------------------------------

    def forward(self, batch: Batch) -> PolicyOutput:
        """Each robot's windows through its own policy. Raises ValueError where the batch does not say whose they are."""
        rows, outputs, dims, present = [], [], [], []
        for number, policy in enumerate(self._policies()):
            spec = policy.spec
            own, part = of_robot(
                batch, number, state_dim=spec.state_dim, action_dim=spec.action_dim
            )
            if part is not None:
                rows.append(own)
                outputs.append(cast(PolicyOutput, policy(part)))
                dims.append(spec.action_dim)
                present.append(policy)
        order = torch.cat(rows).argsort()
        nothing = self._nothing(present)
        parts = [
            Part(own, output.actions, A) for own, output, A in zip(rows, outputs, dims, strict=True)
        ]
        tokens = all(hasattr(output.actions, "token_accuracy") for output in outputs)
        joined = JoinedTokenActions if tokens else JoinedActions
        return PolicyOutput(
            features=torch.cat([output.features for output in outputs])[order],
            actions=joined(tuple(parts), order, self.spec.action_dim, nothing),
            losses=_joined_losses(outputs, order),
        )

    def _nothing(self, present: Sequence[Policy]) -> Tensor | None:
        """0, with a gradient of zeros for what no robot of the batch has used: distributed training waits for every
        parameter, and the optimiser is to treat them alike however a batch is divided."""
        if len(present) == len(self.robots) or not torch.is_grad_enabled():
            return None
        used = {id(p) for policy in present for p in policy.parameters()}
        idle = [p.sum() for p in self.parameters() if p.requires_grad and id(p) not in used]
        return 0.0 * torch.stack(idle).sum() if idle else None

    def fit_robots(self, data: Mapping[str, RobotData]) -> None:
        """Fits each robot's tokenizer, heads and statistics to its own data; how instructions are scaled, to those of all."""
        texts = list(dict.fromkeys(text for part in data.values() for text in part.instructions))
        for name, policy in zip(self.robots, self._policies(), strict=True):
            part = data[name]
            policy.fit(part.actions, part.states, texts, lengths=part.lengths.tolist())

    def fit(
        self, actions: Any, states: Any, instructions: Sequence[str], *, lengths: Any = None
    ) -> NoReturn:
        """Raises UserError: data of one robot cannot be fitted to."""
        raise self.one_of_several("be fitted to the data of one; use fit_robots")

    def part(self, name: str) -> Policy:
        """The policy of one robot as it is in here: its trunk is that of all."""
        return cast(Policy, self.robots[name])

    def own_parameters(self, name: str) -> list[nn.Parameter]:
        """The parameters of one robot that it shares with no other."""
        shared = {id(p) for p in self.trunk.parameters()}
        return [p for p in self.part(name).parameters() if id(p) not in shared]

    # --- one robot --------------------------------------------------------------------------------------

    def robot(self, name: str) -> Policy:
        """An ordinary policy for one robot, with weights of its own, in evaluation mode. Raises UserError for unknown names."""
        if name not in self.robots:
            raise UserError(
                f"no robot {name!r} in this policy; there are: {', '.join(self.robots)}"
            )
        inside = self.part(name)
        policy = inside.config.new(inside.spec, from_checkpoint=True)
        policy.load_state_dict({key: tensor_of(inside, key) for key in policy.state_dict()})
        policy.use_tokenizer(inside.tokenizer)
        policy.language.preload(self.language.cached())
        policy.card = {
            **self.card,
            "mixture": {
                "robot": name,
                "learned beside": ", ".join(n for n in self.robots if n != name),
            },
        }
        return policy.to(self.device).eval()

    def act(self, *args: Any, **options: Any) -> NoReturn:
        """Raises UserError: one robot has to be chosen."""
        raise self.one_of_several("act for all")

    def step(self, observation: Any, memory: Any) -> NoReturn:
        """Raises UserError: one robot has to be chosen."""
        raise self.one_of_several("act for all")

    def remember(self, memory: Any, actions: Any) -> NoReturn:
        """Raises UserError: one robot has to be chosen."""
        raise self.one_of_several("act for all")

    def one_of_several(self, what: str) -> UserError:
        """The error of somebody who wants of all what only one robot can."""
        names = list(self.robots)
        return UserError(
            f"this policy is for the robots {', '.join(names)} and cannot {what}: take one out with "
            f"policy.robot({names[0]!r}), or `vla policy extract` (training writes them into policies/)"
        )

    def _policies(self) -> list[Policy]:
        return [self.part(name) for name in self.robots]

    # --- storage ----------------------------------------------------------------------------------------

    def weights(self) -> dict[str, Tensor]:
        """Every tensor once: what is shared under `trunk.`, what is a robot's own under `robots.NAME.`."""
        named = dict(self.named_parameters())  # tells each once
        others = {name for name, _ in self.named_parameters(remove_duplicate=False)} - set(named)
        return {name: tensor for name, tensor in self.state_dict().items() if name not in others}

    def save_tokenizer(self, folder: Path) -> None:
        for name, policy in zip(self.robots, self._policies(), strict=True):
            (folder / ROBOTS_FOLDER / name).mkdir(parents=True, exist_ok=True)
            policy.save_tokenizer(folder / ROBOTS_FOLDER / name)

    def load_tokenizer(self, folder: Path) -> None:
        for name, policy in zip(self.robots, self._policies(), strict=True):
            policy.load_tokenizer(folder / ROBOTS_FOLDER / name)
        self.tokenizer = self._policies()[0].tokenizer


def _tree(parameters: Mapping[str, nn.Parameter]) -> nn.Module:
    """A module that holds parameters under dotted names."""
    root = nn.Module()
    for name, parameter in parameters.items():
        node, (*path, leaf) = root, name.split(".")
        for part in path:
            if part not in dict(node.named_children()):
                node.add_module(part, nn.Module())
            node = node.get_submodule(part)
        node.register_parameter(leaf, parameter)
    return root


def _joined_losses(outputs: Sequence[PolicyOutput], order: Tensor) -> dict[str, Tensor]:
    """What the policies add to the loss; robots without it add 0."""
    names = dict.fromkeys(name for output in outputs for name in output.losses)
    zeros = [
        torch.zeros(output.features.shape[:2], device=output.features.device) for output in outputs
    ]
    return {
        name: torch.cat(
            [output.losses.get(name, zero) for output, zero in zip(outputs, zeros, strict=True)]
        )[order]
        for name in names
    }


# --- actions --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """What one robot's policy says: `actions` over (b, T, K, A of the robot), for the `rows` of the batch."""

    rows: Tensor
    actions: ActionDistribution
    action_dim: int


@dataclass(frozen=True)
class JoinedActions:
    """The distributions of several robots as one over padded actions; what stands in the padding counts for nothing.

    Attributes:
        parts: of each robot.
        order: row of the batch -> where it stands in the parts side by side.
        action_dim: A.
        nothing: see `MultiRobotPolicy._nothing`.
    """

    parts: tuple[Part, ...]
    order: Tensor
    action_dim: int
    nothing: Tensor | None = None

    def loss(
        self, actions: Float[Tensor, "B T K A"], action_mask: Bool[Tensor, "B T K"] | None = None
    ) -> Float[Tensor, "B T"]:
        """Each robot's own loss of imitation."""
        loss_BT = self._each("loss", actions, action_mask)
        return loss_BT if self.nothing is None else loss_BT + self.nothing

    def log_prob(
        self, actions: Float[Tensor, "B T K A"], action_mask: Bool[Tensor, "B T K"] | None = None
    ) -> Float[Tensor, "B T"]:
        """Log probability, where every robot's distribution can tell it."""
        return self._each("log_prob", actions, action_mask)

    def mode(self) -> Float[Tensor, "B T K A"]:
        """The most likely chunks; 0 in the padding."""
        return self._padded([part.actions.mode() for part in self.parts])

    def sample(
        self, generator: torch.Generator | None = None, *, temperature: float = 1.0
    ) -> Float[Tensor, "B T K A"]:
        """Random chunks; 0 in the padding."""
        return self._padded(
            [part.actions.sample(generator, temperature=temperature) for part in self.parts]
        )

    def _each(
        self, method: str, actions: Tensor, action_mask: Tensor | None
    ) -> Float[Tensor, "B T"]:
        values = [
            getattr(part.actions, method)(
                actions[part.rows][..., : part.action_dim],
                None if action_mask is None else action_mask[part.rows],
            )
            for part in self.parts
        ]
        return torch.cat(values)[self.order]

    def _padded(self, chunks: Sequence[Tensor]) -> Float[Tensor, "B T K A"]:
        return torch.cat(
            [F.pad(chunk, (0, self.action_dim - chunk.shape[-1])) for chunk in chunks]
        )[self.order]


class JoinedTokenActions(JoinedActions):
    """`JoinedActions` whose parts are all over tokens."""

    def token_accuracy(
        self, actions: Float[Tensor, "B T K A"], action_mask: Bool[Tensor, "B T K"] | None = None
    ) -> Float[Tensor, "B T"]:
        """Share of each chunk's tokens that are the most likely ones."""
        return self._each("token_accuracy", actions, action_mask)


__all__ = [
    "JoinedActions",
    "MultiRobotConfig",
    "MultiRobotPolicy",
    "RobotConfig",
    "RobotData",
    "RobotName",
]
