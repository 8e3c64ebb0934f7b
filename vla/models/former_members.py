"""Members of a policy under their former names, so that plug-ins that use them go on working."""

from __future__ import annotations

from typing import Any, cast

from vla.common.renamed import accept_former_members, announce_renamed

_ATTRIBUTES = {"trained": "unwrapped", "still": "frozen_modules"}
"""Former name of an attribute of `Policy` -> its name today."""
_METHODS = {"save_besides": "save_extra_files"}  # former names of methods


class FormerMembers:
    """Base of `Policy`: reads, sets and defines its members by their former names."""

    frozen_modules: frozenset[str]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        accept_former_members(cls, _METHODS)
        # attributes may be set on an object too, where a second name in the class would not show
        # it: the properties below read and set the one that counts
        for former, name in _ATTRIBUTES.items():
            if former in cls.__dict__ and name not in cls.__dict__:
                announce_renamed(f"Policy.{former}", f"Policy.{name}")
                setattr(cls, name, cls.__dict__[former])

    @property
    def trained(self) -> Any:
        """The former name of `unwrapped`."""
        announce_renamed("Policy.trained", "Policy.unwrapped")
        return cast(Any, self).unwrapped

    @property
    def still(self) -> frozenset[str]:
        """The former name of `frozen_modules`."""
        announce_renamed("Policy.still", "Policy.frozen_modules")
        return self.frozen_modules

    @still.setter
    def still(self, names: frozenset[str]) -> None:
        announce_renamed("Policy.still", "Policy.frozen_modules")
        self.frozen_modules = names


__all__ = ["FormerMembers"]
