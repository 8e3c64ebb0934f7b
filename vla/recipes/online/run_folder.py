"""Whether a run may start or go on in its folder."""

from __future__ import annotations

from pathlib import Path

from vla.config import ConfigError, read_yaml
from vla.recipes.online.config import FREE_ON_RESUME, OnlineConfig
from vla.training.checkpoint import Checkpoint, newest_checkpoint
from vla.training.run_directory import flattened, refuse_lost_config, with_current_names


def open_run(config: OnlineConfig, *, resume: bool) -> Checkpoint | None:
    """The checkpoint to go on from, or None if the run begins with its first round. Reads only.

    Raises ConfigError if the folder holds a run and `resume` is off, another run, or one that has
    lost its config.
    """
    out = Path(config.out)
    stored = out / "config.yaml"
    if not stored.exists():
        refuse_lost_config(out)
        return None
    values = read_yaml(stored)
    if "rounds" not in values:
        raise ConfigError(
            [f"out: {out} holds something else than a run of `vla online`; name another out"]
        )
    if not resume:
        raise ConfigError(
            [
                f"out: {out} holds a run already; resume it (--resume, or resume=True) or name "
                "another"
            ]
        )
    before = flattened(with_current_names(values, config))
    now = flattened(config.model_dump(mode="json"))
    lines = []
    for key in sorted(before.keys() | now.keys()):
        free = key in FREE_ON_RESUME or key.partition(".")[0] in FREE_ON_RESUME
        # the rates so far would have been others
        free = free and not (key == "rounds" and config.optim.schedule == "cosine")
        if not free and before.get(key) != now.get(key):
            lines.append(
                f"{key}: is {now.get(key)!r}, the run in {out} has {before.get(key)!r}; restore it "
                "or name another out"
            )
    if lines:
        raise ConfigError(lines)
    return newest_checkpoint(out / "checkpoints", warn=True)


__all__ = ["open_run"]
