"""One network for several robots (cross-embodiment): they share a trunk, and nothing else.

Every robot has a whole policy of its own, built from one policy config for its own spec: tokenizer,
heads, state embedding and statistics are its own. Their trunks (vision, instruction, transformer)
are the very same parameters (see `vla.models.transfer.shared_trunk`). A micro-batch is of one robot
and goes through that robot's policy alone: `part(name)` while all learn together, `robot(name)` to
take one out as an ordinary policy, which is saved, evaluated and fine-tuned as any other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, cast

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from vla.config import Choice, Config, ConfigError, UserError, register
from vla.data.loading.multi_robot import joint_spec
from vla.data.loading.protocols import Trajectories
from vla.models.policy import TOKENIZER_FILE, Policy, PolicyConfig
from vla.models.policy_wrapper import WRAPPERS
from vla.models.transfer.shared_trunk import share_trunk, tensor_of
from vla.types import Batch, Spec, SpecError

ROBOTS_FOLDER = "robots"
_NEEDS_STATE = {"state_token": False, "state_dropout": 0.0, "keyframe_loss": 0.0}
"""Options of a policy that a robot without state cannot have -> their value for it."""
RobotName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
"""What stands in names of files, weights and metrics."""


class RobotConfig(Config):
    """One robot of a policy for several."""

    spec: dict[str, Any]
    """What it sees and does (`Spec.to_dict`)."""
    cameras: dict[str, str] | None = None
    """Camera slot of the trunk -> the robot's camera that stands in it; null: every camera is a
    slot of its name. Robots share what is learned for a slot, such as `front` or `wrist`; a robot
    may leave slots empty."""
    tokenizer: Annotated[Any, Choice("tokenizers")] | None = None
    """Its action tokenizer; null: of the policy's kind."""

    @field_validator("spec")
    @classmethod
    def _plain(cls, value: dict[str, Any]) -> dict[str, Any]:
        # through JSON: a checkpoint's config has lists for tuples, and must be equal to this one
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
        if self.cameras is None:
            return {camera: camera for camera in self.spec["cameras"]}
        return self.cameras


@register("policies", "multi_robot")
class MultiRobotConfig(PolicyConfig):
    """One trunk for several robots, each with its own actions.

    Made by training on the data of several robots (`data.multi_robot`).
    """

    type: Literal["multi_robot"] = "multi_robot"
    policy: Annotated[Any, Choice("policies", unlisted=WRAPPERS)]
    """What each robot's policy is built from. Its `cameras` name camera slots."""
    robots: Annotated[dict[RobotName, RobotConfig], Field(min_length=1)]
    """The robots, by name; their order is that in which they learn within a step."""

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
        # a robot called `items` would hide the method of the module that holds the robots' policies
        taken = [name for name in value if hasattr(nn.ModuleDict, name)]
        if taken:
            raise ValueError(f"{taken[0]!r} cannot name a robot; choose another name")
        return value

    @property
    def tokenizer_files(self) -> tuple[str, ...]:
        return tuple(f"{ROBOTS_FOLDER}/{name}/{TOKENIZER_FILE}" for name in self.robots)

    @property
    def specs(self) -> dict[str, Spec]:
        return {name: Spec.from_dict(robot.spec) for name, robot in self.robots.items()}

    def cameras_of(self, name: str) -> dict[str, str]:
        """Camera -> slot of the cameras that a robot looks through, in the order of the slots.

        That is the order of the policy's `cameras`, or the one in which the robots name them.
        Raises SpecError if there is none.
        """
        slots = self.policy.option("cameras")
        if not slots:
            slots = [slot for robot in self.robots.values() for slot in robot.slots]
        own = self.robots[name].slots
        if own and not set(own) & set(slots):
            listed = ", ".join(dict.fromkeys(slots))
            raise SpecError(
                f"robot {name!r} has the camera slots {', '.join(own)}, none of {listed}"
            )
        # one order for all robots: which image tokens come first must not differ between them
        return {own[slot]: slot for slot in dict.fromkeys(slots) if slot in own}

    def policy_of(self, name: str) -> PolicyConfig:
        """What the policy of one robot is built from."""
        robot = self.robots[name]
        fields = type(self.policy).model_fields
        changes: dict[str, Any] = {}
        if "cameras" in fields:
            changes["cameras"] = list(self.cameras_of(name))
        if robot.tokenizer is not None:
            changes["tokenizer"] = robot.tokenizer
        if not robot.spec["state_names"]:
            changes |= {key: off for key, off in _NEEDS_STATE.items() if key in fields}
        config: PolicyConfig = self.policy.model_copy(update=changes)
        return config

    def build(self, spec: Spec, *, from_checkpoint: bool = False) -> MultiRobotPolicy:
        """A policy for all robots.

        Raises:
            SpecError: `spec` is not the joint one of the robots.
            ConfigError: their policies can share nothing.
        """
        problems = joint_spec(self.specs).differences(spec)
        if problems:
            raise SpecError(
                f"a policy for the robots {', '.join(self.robots)} learns from the data of all of "
                f"them (data.multi_robot): {problems[0]}"
            )
        return MultiRobotPolicy(self, from_checkpoint=from_checkpoint)


class MultiRobotPolicy(Policy):
    """See the module's docstring. `spec` has room for all robots, `tokenizer` is that of the first.

    Attributes:
        robots: name -> its policy, which shares its trunk with the others.
        trunk: what is shared, under the names that it has in each robot's policy.

    Raises ConfigError if the robots' policies can share nothing.
    """

    config: MultiRobotConfig

    def __init__(self, config: MultiRobotConfig, *, from_checkpoint: bool = False) -> None:
        policies: dict[str, Policy] = {}
        for name, spec in config.specs.items():
            # the first has the pretrained weights that all get
            fetched = from_checkpoint or bool(policies)
            policies[name] = config.policy_of(name).new(spec, from_checkpoint=fetched)
        _check_whole_weights(policies)
        first = next(iter(policies.values()))
        super().__init__(config, joint_spec(config.specs), tokenizer=first.tokenizer, language=None)
        self.config = config.model_copy(update={"policy": _resolved(config.policy, first)})
        self.language = first.language
        self.feature_dim = first.feature_dim
        slots = [config.cameras_of(name) for name in policies]
        shared = share_trunk(list(policies.values()), slots)
        if len(policies) > 1 and not shared:
            raise ConfigError(["policy: these robots' policies have no parameter in common"])
        # Registered before the robots: `named_parameters` gives a shared parameter its first name,
        # and the trunk's is the one in checkpoints.
        self.trunk = _tree(shared)
        self.robots = nn.ModuleDict(dict[str, nn.Module](policies))
        for name, policy in policies.items():
            policy.language = self.language
            policy.robot_name = name

    @property
    def robot_names(self) -> tuple[str, ...]:
        return tuple(self.robots)

    # --- learning ---------------------------------------------------------------------------------

    def part(self, name: str) -> Policy:
        """The policy of one robot as it is in here: its trunk is that of all."""
        return cast(Policy, self.robots[name])

    def zero_for_others(self, name: str) -> Tensor | None:
        """0, with zero gradients for all that robot `name` does not use; None if it uses all.

        Added to the loss of that robot's micro-batch it gives all parameters a gradient, whichever
        robots a step or a process has. Distributed training waits for every parameter, and the
        optimiser is to treat them alike however a batch is divided: AdamW skips parameters without
        gradient, but decays those whose gradient is zero.
        """
        if len(self.robots) == 1 or not torch.is_grad_enabled():
            return None
        used = {id(parameter) for parameter in self.part(name).parameters()}
        idle = [
            parameter.sum()
            for parameter in self.parameters()
            if parameter.requires_grad and id(parameter) not in used
        ]
        return 0.0 * torch.stack(idle).sum() if idle else None

    def fit_robots(self, data: Mapping[str, Trajectories]) -> None:
        """Fits each robot's part to its own data, and the scale of instructions to all texts.

        Args:
            data: name of the robot -> its data.
        """
        # the trunk that reads instructions is one, so all robots must scale a text alike
        texts = list(dict.fromkeys(text for own in data.values() for text in own.instructions))
        for name in self.robots:
            own = data[name]
            self.part(name).fit(own.actions, own.states, texts, lengths=own.lengths.tolist())

    def own_parameters(self, name: str) -> list[nn.Parameter]:
        """The parameters of one robot that it shares with no other."""
        shared = {id(p) for p in self.trunk.parameters()}
        return [p for p in self.part(name).parameters() if id(p) not in shared]

    def compile(self, *args: Any, **options: Any) -> None:
        """Compiles each robot's policy: windows go through those, never through this module."""
        for policy in self._policies():
            policy.compile(*args, **options)

    # --- one robot --------------------------------------------------------------------------------

    def robot(self, name: str) -> Policy:
        """An ordinary policy for one robot, with weights of its own, in evaluation mode.

        Raises UserError if there is no robot of that name.
        """
        if name not in self.robots:
            raise UserError(
                f"no robot {name!r} in this policy; there are: {', '.join(self.robots)}"
            )
        inside = self.part(name)
        policy = inside.config.new(inside.spec, from_checkpoint=True)
        # what is computed from the shared tables (positions) becomes an ordinary parameter
        policy.load_state_dict({key: tensor_of(inside, key) for key in policy.state_dict()})
        policy.use_tokenizer(inside.tokenizer)
        policy.language.preload(self.language.cached())
        others = ", ".join(other for other in self.robots if other != name)
        origin = {"robot": name, "learned beside": others}
        policy.card = {**self.card, "mixture": origin}
        return policy.to(self.device).eval()

    def forward(self, batch: Batch) -> NoReturn:
        """Raises UserError: one robot has to be chosen."""
        raise self.one_of_several("read windows for all; use part(name)")

    def act(self, *args: Any, **options: Any) -> NoReturn:
        """Raises UserError: one robot has to be chosen."""
        raise self.one_of_several("act for all")

    def step(self, observation: Any, memory: Any) -> NoReturn:
        """Raises UserError: one robot has to be chosen."""
        raise self.one_of_several("act for all")

    def remember(self, memory: Any, actions: Any) -> NoReturn:
        """Raises UserError: one robot has to be chosen."""
        raise self.one_of_several("act for all")

    def fit(
        self,
        actions: Any,
        states: Any,
        instructions: Sequence[str],
        *,
        lengths: Any = None,
    ) -> NoReturn:
        """Raises UserError: data of one robot cannot be fitted to."""
        raise self.one_of_several("be fitted to the data of one; use fit_robots")

    def one_of_several(self, what: str) -> UserError:
        """The error of a call for all robots of what only one can do."""
        names = list(self.robots)
        return UserError(
            f"this policy is for the robots {', '.join(names)} and cannot {what}: take one out "
            f"with policy.robot({names[0]!r}), or `vla policy extract` (training writes them into "
            "policies/)"
        )

    def _policies(self) -> list[Policy]:
        return [self.part(name) for name in self.robots]

    # --- storage ----------------------------------------------------------------------------------

    def weights(self) -> dict[str, Tensor]:
        """Every tensor once: what is shared as `trunk.*`, what is a robot's as `robots.NAME.*`."""
        # by default each parameter is listed once, under its first name
        first_names = {name for name, _ in self.named_parameters()}
        all_names = {name for name, _ in self.named_parameters(remove_duplicate=False)}
        repeated = all_names - first_names
        return {name: tensor for name, tensor in self.state_dict().items() if name not in repeated}

    def save_tokenizer(self, folder: Path) -> None:
        for name in self.robots:
            own = folder / ROBOTS_FOLDER / name
            own.mkdir(parents=True, exist_ok=True)
            self.part(name).save_tokenizer(own)

    def load_tokenizer(self, folder: Path) -> None:
        for name in self.robots:
            self.part(name).load_tokenizer(folder / ROBOTS_FOLDER / name)
        self.tokenizer = self._policies()[0].tokenizer


def _resolved(wanted: PolicyConfig, built: Policy) -> PolicyConfig:
    """The config of the policies as the first was built: loading a checkpoint then fetches nothing.

    What is each robot's own (its cameras, its tokenizer, whether it has state) stays as it was
    wanted.
    """
    kept = ("cameras", "tokenizer", *_NEEDS_STATE)
    return built.config.model_copy(update={key: value for key, value in wanted if key in kept})


def _check_whole_weights(policies: Mapping[str, Policy]) -> None:
    """Raises ConfigError if a policy's checkpoint lacks some of its tensors.

    Sharing could not restore them.
    """
    for name, policy in policies.items():
        if set(policy.weights()) != set(policy.state_dict()):
            kind = policy.config.model_dump()["type"]
            raise ConfigError(
                [f"policy: {kind} keeps weights apart, which robots cannot share ({name}); use rt1"]
            )


def _tree(parameters: Mapping[str, nn.Parameter]) -> nn.Module:
    """A module that holds parameters under dotted names."""
    root = nn.Module()
    for name, parameter in parameters.items():
        *path, leaf = name.split(".")
        node = root
        for part in path:
            if part not in dict(node.named_children()):
                node.add_module(part, nn.Module())
            node = node.get_submodule(part)
        node.register_parameter(leaf, parameter)
    return root


__all__ = [
    "MultiRobotConfig",
    "MultiRobotPolicy",
    "RobotConfig",
    "RobotName",
]
