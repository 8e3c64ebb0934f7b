"""Which parameters of a transferred policy learn: all, all but the frozen ones, or adapters."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from vla.config import ConfigError
from vla.models.layers.low_rank import add_adapters, plain_linears
from vla.models.policy import Policy
from vla.models.roles import TRUNK, RoleKind
from vla.models.transfer.transfer_weights import WeightTransfer
from vla.training.config import TransferConfig
from vla.training.patterns import matching

_OF_ONE_ROBOT = (
    RoleKind.STATE_INPUT | RoleKind.STATE_OUTPUT | RoleKind.ACTION_INPUT | RoleKind.ACTION_OUTPUT
)


def choose_trained(policy: Policy, settings: TransferConfig, tensors: WeightTransfer) -> None:
    """Freezes parameters and puts in adapters as `settings` say, given what was re-initialised.

    Raises:
        ConfigError: a pattern matches nothing, adapters fit no layer, or nothing is left to learn.
    """
    names = [name for name, _ in policy.named_parameters()]
    frozen = matching(settings.freeze, names, key="transfer.freeze")
    if settings.lora is not None:
        # a low-rank change of random weights would not do: what is new learns in full
        full = {*tensors.reinitialised, *tensors.adapted, *_of_one_robot(policy)}
        full |= matching(settings.train, names, key="transfer.train")
        layers = _adapted_layers(policy, settings, full | frozen)
        frozen |= {name for name in names if name not in full}
        # after the names are known: adapters bring parameters of their own, which learn
        add_adapters(policy, layers, settings.lora)
    for name, parameter in policy.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)
    if not any(p.requires_grad for p in policy.parameters()):
        raise ConfigError(["transfer.freeze: leaves nothing to learn; name fewer parameters"])
    policy.frozen_modules = frozenset(
        name for name, module in policy.named_modules() if _is_frozen_norm(module)
    )


def _of_one_robot(policy: Policy) -> set[str]:
    """Heads, and what reads states and actions alone."""
    found = set()
    for name, role in policy.parameter_roles().items():
        if role.kind & _OF_ONE_ROBOT and not role.kind & TRUNK.kind:
            found.add(name)
    return found


def _adapted_layers(policy: Policy, settings: TransferConfig, without: set[str]) -> list[str]:
    """The linear layers that get adapters: targets whose weight is not in `without`."""
    assert settings.lora is not None
    if policy.config.option("lora") is not None:
        raise ConfigError(
            [
                "transfer.lora: this policy has adapters of its own; set policy.lora, and "
                "transfer.lora: null"
            ]
        )
    # what learns in full needs no adapter, and what is frozen by name is to stay as it is
    linears = [name for name in plain_linears(policy) if f"{name}.weight" not in without]
    targets = settings.lora.targets
    if targets == "all-linear":
        chosen = linears
    else:
        for target in targets:
            if not any(_ends_in(name, [target]) for name in linears):
                ends = sorted({name.rpartition(".")[2] for name in linears})
                raise ConfigError(
                    [
                        f"transfer.lora.targets: no kept linear layer ends in {target!r}; "
                        f"there are: {', '.join(ends) or 'none'}"
                    ]
                )
        chosen = [name for name in linears if _ends_in(name, targets)]
    if not chosen:
        raise ConfigError(["transfer.lora: there is no kept linear layer to adapt; set lora: null"])
    return chosen


def _ends_in(name: str, targets: Sequence[str]) -> bool:
    return any(name == target or name.endswith(f".{target}") for target in targets)


def _is_frozen_norm(module: nn.Module) -> bool:
    """A batch norm none of whose parameters learns: its statistics must not move either."""
    if not isinstance(module, nn.modules.batchnorm._BatchNorm):
        return False
    own = list(module.parameters(recurse=False))
    return bool(own) and not any(parameter.requires_grad for parameter in own)


__all__ = ["choose_trained"]
