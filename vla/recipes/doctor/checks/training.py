"""Whether the files are those of a training that is over and went well."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from vla.common.registry import register
from vla.recipes.doctor.check import Symptom, examines
from vla.recipes.doctor.subject import Subject
from vla.training.checkpoint import newest_checkpoint
from vla.training.metrics import read_metrics

_WORSE = 1.1
"""Factor on the least validation loss above which the last one has risen for good."""


@register("doctor_checks", "progress")
@examines("whether the run is over, and which of its checkpoints was best")
def progress(subject: Subject) -> Iterator[Symptom]:
    """The policy is that of a run that came to its end while it still got better."""
    run, config = subject.run, subject.config
    if run is None or config is None:
        return
    newest = newest_checkpoint(run / "checkpoints")
    if newest is not None and newest.step < config.steps and config.max_minutes is None:
        yield Symptom(
            "warning",
            f"the run stopped at step {newest.step} of {config.steps}: its learning rate had not "
            "come down",
            f"finish it: `vla train {run / 'config.yaml'} --resume`",
            {"step": newest.step, "steps": config.steps},
        )
    losses = _validation_losses(run / "metrics.jsonl")
    if len(losses) < 3:
        return
    best_step, best = min(losses, key=lambda item: item[1])
    last_step, last = losses[-1]
    # of losses that may be negative, such as log densities, a factor says nothing
    if best > 0 and last > _WORSE * best and best_step < last_step:
        yield Symptom(
            "note",
            f"the validation loss was {best:.4g} at step {best_step} and is {last:.4g} at step "
            f"{last_step}",
            f"try the earlier checkpoint if it is kept ({run / 'checkpoints'}); the loss of held-"
            "out actions is no success rate: compare both with `vla eval`",
            {"best": best, "best_step": best_step, "last": last},
        )


def _validation_losses(path: Path) -> list[tuple[int, float]]:
    """(step, loss) of each validation."""
    found: list[tuple[int, float]] = []
    for values in read_metrics(path) if path.is_file() else ():
        loss = values.get("validation/loss")
        if isinstance(loss, float) and math.isfinite(loss):
            found.append((values["step"], loss))
    return found
