"""Fine-tuning on another robot: a new policy with the old one's trunk, and which of its parameters learn.

What was kept and what was made anew stands in `transfer.json` of the run directory; a resumed run reads there which
parameters learn.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vla.common.atomic import write_json
from vla.config import ConfigError, UserError
from vla.data.loading.protocols import Trajectories
from vla.models.heads.base import Head
from vla.models.layers.low_rank import add_adapters, plain_linears
from vla.models.policies.multi_robot import MultiRobotPolicy
from vla.models.policy import Policy, PolicyConfig, load_policy
from vla.models.transfer.transfer_weights import (
    Transplant,
    cameras_of,
    paired_cameras,
    parts_of,
    transplant,
)
from vla.training.config import TransferConfig
from vla.training.patterns import matching
from vla.types import Spec

TRANSFER_FILE = "transfer.json"


@dataclass
class Transfer:
    """What a transfer did.

    Attributes:
        source: the checkpoint's folder.
        tensors: what became of the new policy's tensors.
        robots: how the two robots differ, a line each.
        cameras: new camera -> old camera.
    """

    source: str
    tensors: Transplant
    robots: list[str] = field(default_factory=list)
    cameras: dict[str, str] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """What a user wants to know, before training begins."""
        t = self.tensors
        kept = len(t.kept) + len(t.adapted)
        told = [
            f"transfer: {kept} of {kept + len(t.anew)} tensors from {self.source}, of its {_percent(t)}"
        ]
        told += [f"transfer: robot: {line}" for line in self.robots]
        told += [
            f"transfer: camera {new} takes the place of {old}"
            for new, old in self.cameras.items()
            if new != old
        ]
        told += [f"transfer: adapted {name}: {how}" for name, how in t.adapted.items()]
        told += [
            f"transfer: made anew {names}: {reason}" for reason, names in _by_reason(t.anew).items()
        ]
        return [*told, *([f"transfer: left behind {_shown(t.left)}"] if t.left else [])]

    def card(self) -> dict[str, Any]:
        """What the model card tells."""
        t = self.tensors
        return {
            "from": Path(self.source).name,
            "kept": _percent(t),
            "tensors kept": len(t.kept),
            "adapted": _shown(list(t.adapted)) or "none",
            "made anew": _shown(list(t.anew)) or "none",
        }

    def save(self, out: Path) -> None:
        write_json(out / TRANSFER_FILE, dataclasses.asdict(self))

    @classmethod
    def load(cls, out: Path) -> Transfer:
        """Raises UserError where the file is missing or damaged."""
        try:
            values = json.loads((out / TRANSFER_FILE).read_text())
            return cls(**{**values, "tensors": Transplant(**values["tensors"])})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{out / TRANSFER_FILE}: cannot be read ({error}): it tells which parameters learn; restore it, or start a "
                "new run with another out"
            ) from error


def transferred_policy(
    init_from: str, settings: TransferConfig, policy: PolicyConfig | None, spec: Spec
) -> tuple[Policy, Transfer]:
    """A new policy for `spec` with all that fits of the policy in `init_from`; and what that was.

    Args:
        policy: what the new policy is built from; None for what the old one was.

    Raises:
        ConfigError: cameras that do not exist, statistics that cannot be kept, or too little of the trunk fits.
        CheckpointError: the policy cannot be read.
    """
    old = load_policy(init_from).trained
    wanted = policy if policy is not None else _config_for(spec, old, settings)
    same = all(
        getattr(wanted, part, None) == getattr(old.config, part, None)
        for part in ("trunk", "backbone", "base")
    )
    new: Policy = wanted.new(
        spec, from_checkpoint=same
    )  # the weights that it would fetch are in the checkpoint
    _check_cameras(settings, old, new)
    if settings.keep_statistics:
        _keep_tokenizer(old, new)
    if old.language.name == new.language.name:
        new.language.preload(old.language.cached())
    cameras = paired_cameras(old, new, settings.cameras)
    remake = settings.remake
    tensors = transplant(
        old,
        new,
        cameras=cameras,
        remake=None
        if remake is None
        else matching(remake, list(new.state_dict()), key="transfer.remake"),
        keep_statistics=settings.keep_statistics,
    )
    if not tensors.kept or tensors.share < settings.least_kept:
        raise ConfigError(
            [
                f"init_from: of {init_from} fits {_percent(tensors)}, {tensors.share:.1%} in the mean; "
                f"transfer.least_kept is {settings.least_kept:.0%}. First: {tensors.mismatch}. Leave policy out, "
                "or give it the checkpoint's sizes"
            ]
        )
    return new, Transfer(init_from, tensors, _differences(old.spec, spec), cameras)


def fit_transferred(
    policy: Policy,
    data: Mapping[str, Trajectories],
    transfer: Transfer,
    settings: TransferConfig,
) -> None:
    """Fits to data what was made anew: tokenizer, heads' and state's statistics. How instructions are scaled belongs to
    the trunk that learned to read them, and stays where it was kept: a single new instruction would be scaled to nothing.
    """
    if not settings.keep_statistics:
        kept = {
            n: b.clone()
            for n, b in policy.named_buffers()
            if n.startswith("language_") and n in transfer.tensors.kept
        }
        fit_policy(policy, data)
        for name, values in kept.items():
            policy.get_buffer(name).copy_(values)
        return
    (own,) = data.values()  # a transfer is to one robot: the config sees to it
    lengths = own.lengths.tolist()
    for name, module in policy.named_modules():
        if isinstance(module, Head) and any(
            key.startswith(f"{name}.") for key in transfer.tensors.anew
        ):
            module.fit(torch.as_tensor(own.actions).float(), lengths=lengths)


def fit_policy(policy: Policy, data: Mapping[str, Trajectories]) -> None:
    """Fits the policy to the actions and instructions of all data, and to states of each dataset by its share; of several
    robots each to its own data.

    Args:
        data: name of the robot ("" where there is one) -> its data.
    """
    if isinstance(policy, MultiRobotPolicy):
        policy.fit_robots(data)
        return
    (own,) = data.values()
    policy.fit(own.actions, own.states, own.instructions, lengths=own.lengths.tolist())


# --- what learns --------------------------------------------------------------------------------------


def choose_trained(policy: Policy, settings: TransferConfig, tensors: Transplant) -> None:
    """Freezes parameters and puts in adapters as `settings` say, given what was made anew.

    Raises:
        ConfigError: a pattern matches nothing, adapters fit no layer, or nothing is left to learn.
    """
    names = [name for name, _ in policy.named_parameters()]
    frozen = matching(settings.freeze, names, key="transfer.freeze")
    if settings.lora is not None:
        parts = parts_of(policy)
        full = {
            *tensors.anew,
            *tensors.adapted,
            *matching(settings.train, names, key="transfer.train"),
        }
        full |= {name for name in names if parts.get(name) in ("head", "action", "state")}
        layers = _adapted_layers(policy, settings, full | frozen)
        frozen |= {name for name in names if name not in full}
        add_adapters(policy, layers, settings.lora)
    for name, parameter in policy.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)
    if not any(p.requires_grad for p in policy.parameters()):
        raise ConfigError(["transfer.freeze: leaves nothing to learn; name fewer parameters"])
    policy.still = frozenset(
        name for name, module in policy.named_modules() if _is_frozen_norm(module)
    )


def _adapted_layers(policy: Policy, settings: TransferConfig, without: set[str]) -> list[str]:
    assert settings.lora is not None
    if getattr(policy.config, "lora", None) is not None:
        raise ConfigError(
            [
                "transfer.lora: this policy has adapters of its own; set policy.lora, and transfer.lora: null"
            ]
        )
    linears = [name for name in plain_linears(policy) if f"{name}.weight" not in without]
    targets = settings.lora.targets
    if targets == "all-linear":
        chosen = linears
    else:
        chosen = [
            name for name in linears if any(name == t or name.endswith(f".{t}") for t in targets)
        ]
        if missed := [
            t for t in targets if not any(name == t or name.endswith(f".{t}") for name in linears)
        ]:
            ends = sorted({name.rpartition(".")[2] for name in linears})
            raise ConfigError(
                [
                    f"transfer.lora.targets: no kept linear layer ends in {missed[0]!r}; there are: {', '.join(ends) or 'none'}"
                ]
            )
    if not chosen:
        raise ConfigError(["transfer.lora: there is no kept linear layer to adapt; set lora: null"])
    return chosen


def _is_frozen_norm(module: nn.Module) -> bool:
    own = list(module.parameters(recurse=False))
    return (
        isinstance(module, nn.modules.batchnorm._BatchNorm)
        and bool(own)
        and not any(p.requires_grad for p in own)
    )


# --- robots -------------------------------------------------------------------------------------------


def _config_for(spec: Spec, old: Policy, settings: TransferConfig) -> PolicyConfig:
    """The checkpoint's config, looking through the new robot's cameras."""
    named = getattr(old.config, "cameras", None)
    if not named or all(camera in spec.cameras for camera in named):
        return old.config
    chosen = [new for camera in named for new, there in settings.cameras.items() if there == camera]
    return old.config.model_copy(update={"cameras": chosen or None})


def _check_cameras(settings: TransferConfig, old: Policy, new: Policy) -> None:
    problems = [
        f"transfer.cameras: no camera {camera!r} in the {whose} policy; it has: {', '.join(known) or 'none'}"
        for names, known, whose in (
            (list(settings.cameras), cameras_of(new), "new"),
            (list(settings.cameras.values()), cameras_of(old), "old"),
        )
        for camera in names
        if camera not in known
    ]
    if problems:
        raise ConfigError(problems)


def _keep_tokenizer(old: Policy, new: Policy) -> None:
    """Raises ConfigError where what the old statistics describe is not what the new policy says and sees."""
    problems = [
        f"transfer.keep_statistics: {name} are {list(getattr(new.spec, name))}, those of the checkpoint "
        f"{list(getattr(old.spec, name))}; set it to false"
        for name in ("state_names", "action_names", "action_low", "action_high")
        if getattr(new.spec, name) != getattr(old.spec, name)
    ]
    sizes = [
        (type(t).__name__, t.chunk, t.num_tokens, t.vocab_size)
        for t in (old.tokenizer, new.tokenizer)
    ]
    if sizes[0] != sizes[1]:
        problems.append(
            f"transfer.keep_statistics: the tokenizer (kind, chunk, tokens, ids) is {sizes[1]}, that of the checkpoint "
            f"{sizes[0]}; set it to false"
        )
    if problems:
        raise ConfigError(problems)
    new.use_tokenizer(old.tokenizer)


def _differences(old: Spec, new: Spec) -> list[str]:
    rate = (
        [f"control_hz is {new.control_hz:g}, was {old.control_hz:g}"]
        if old.control_hz != new.control_hz
        else []
    )
    return [line.replace("expected", "was") for line in old.differences(new)] + rate


def _percent(tensors: Transplant) -> str:
    return ", ".join(f"{part} {share:.1%}" for part, share in tensors.shares.items())


def _by_reason(names: dict[str, str]) -> dict[str, str]:
    """Reason -> the names that share it, in words."""
    found: dict[str, list[str]] = {}
    for name, reason in names.items():
        found.setdefault(reason, []).append(name)
    return {reason: _shown(group) for reason, group in found.items()}


def _shown(names: Sequence[str], limit: int = 8) -> str:
    return ", ".join(names[:limit]) + (
        f" and {len(names) - limit} more" if len(names) > limit else ""
    )


__all__ = [
    "TRANSFER_FILE",
    "Transfer",
    "choose_trained",
    "fit_policy",
    "fit_transferred",
    "transferred_policy",
]
