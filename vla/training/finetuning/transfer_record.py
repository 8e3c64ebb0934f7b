"""What a transfer did: lines for the log, `transfer.json` of the run directory, the model card."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vla.common.atomic import write_json
from vla.common.foreign.json_files import read_json
from vla.config import UserError
from vla.models.transfer.transfer_weights import WeightTransfer

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
    tensors: WeightTransfer
    robots: list[str] = field(default_factory=list)
    cameras: dict[str, str] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """What a user wants to know, before training begins."""
        tensors = self.tensors
        kept = len(tensors.kept) + len(tensors.adapted)
        total = kept + len(tensors.reinitialised)
        lines = [f"{kept} of {total} tensors from {self.source}, of its {percent_kept(tensors)}"]
        lines += [f"robot: {line}" for line in self.robots]
        # where names agree there is nothing to tell
        for new, old in self.cameras.items():
            if new != old:
                lines.append(f"camera {new} takes the place of {old}")
        lines += [f"adapted {name}: {how}" for name, how in tensors.adapted.items()]
        for reason, names in _by_reason(tensors.reinitialised).items():
            lines.append(f"re-initialised {names}: {reason}")
        if tensors.unused:
            lines.append(f"unused {_shown(tensors.unused)}")
        return [f"transfer: {line}" for line in lines]

    def card(self) -> dict[str, Any]:
        """What the model card tells."""
        tensors = self.tensors
        # the name alone: a card is published, and the path is one of this machine
        return {
            "from": Path(self.source).name,
            "kept": percent_kept(tensors),
            "tensors kept": len(tensors.kept),
            "adapted": _shown(list(tensors.adapted)) or "none",
            "re-initialised": _shown(list(tensors.reinitialised)) or "none",
        }

    def save(self, out: Path) -> None:
        write_json(out / TRANSFER_FILE, dataclasses.asdict(self))

    @classmethod
    def load(cls, out: Path) -> Transfer:
        """Raises UserError if the file is missing or damaged."""
        path = out / TRANSFER_FILE
        try:
            values = read_json(path)
            # by order, not by name: older versions called two of the fields otherwise
            names = [field.name for field in dataclasses.fields(WeightTransfer)]
            tensors = dict(zip(names, values["tensors"].values(), strict=True))
            return cls(**{**values, "tensors": WeightTransfer(**tensors)})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path}: cannot be read ({error}): it tells which parameters learn; restore it, "
                "or start a new run with another out"
            ) from error


def percent_kept(tensors: WeightTransfer) -> str:
    """How much of each part of the old trunk was taken over, in words."""
    return ", ".join(f"{part} {share:.1%}" for part, share in tensors.shares.items())


def _by_reason(names: dict[str, str]) -> dict[str, str]:
    """Reason -> the names that share it, in words."""
    groups: dict[str, list[str]] = {}
    for name, reason in names.items():
        groups.setdefault(reason, []).append(name)
    return {reason: _shown(group) for reason, group in groups.items()}


def _shown(names: Sequence[str], limit: int = 8) -> str:
    text = ", ".join(names[:limit])
    if len(names) > limit:
        text += f" and {len(names) - limit} more"
    return text


__all__ = ["TRANSFER_FILE", "Transfer", "percent_kept"]
