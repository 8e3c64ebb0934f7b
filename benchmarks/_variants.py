"""Variants of one training: learned by `vla.train`, played on the same unseen starts, shown side by side."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from vla.sim_eval.comparison.results import Results


def learn_and_play(
    name: str, out: Path, config: Path, training: Sequence[str], evaluation: Sequence[str]
) -> dict[str, Any]:
    """Trains (or resumes, or finds done) and evaluates one variant.

    Args:
        name: what it is called in the results.
        out: run directory; the evaluation lies below it.
        config: YAML file with the sections train and eval.
        training, evaluation: overrides of these.

    Returns:
        solved: task -> whether each start was solved, in order of the starts; cpu_minutes of the training.
    """
    from vla.config import load_config
    from vla.models import load_policy
    from vla.sim_eval.evaluation import EvalConfig, evaluate
    from vla.training import TrainConfig, train

    record = out / "training.json"
    if not (out / "policy").is_dir():
        began = time.process_time()
        train(
            load_config(TrainConfig, config, [f"out={out}", *training], section="train"),
            resume=True,
        )
        record.write_text(json.dumps({"cpu_minutes": (time.process_time() - began) / 60}) + "\n")
    played = [f"out={out / 'eval'}", "videos_per_task=0", "failure_videos=0", *evaluation]
    settings = load_config(EvalConfig, config, played, section="eval")
    results = Results.load(out / "eval") if (out / "eval" / "results.json").is_file() else None
    if results is None or results.config != settings.model_dump(mode="json"):
        results = evaluate(
            load_policy(out / "policy"), settings, name=name, resume=True, restart=True
        )
    cost = json.loads(record.read_text()) if record.exists() else {}
    return {"solved": outcomes(results), **cost}


def outcomes(results: Results) -> dict[str, list[bool]]:
    """Task -> whether each start was solved, by number of the start."""
    solved: dict[str, list[bool]] = {}
    for episode in sorted(results.episodes, key=lambda e: (e.task, e.episode)):
        solved.setdefault(episode.task, []).append(episode.success_ever)
    return solved


def compared(
    found: Mapping[str, dict[str, Any]], titles: Mapping[str, str], *, more: Sequence[str] = ()
) -> Table:
    """One row per variant, with its Wilson interval and McNemar's exact test against the first; the same numbers are
    added to `found`. `more`: further numbers of each variant to show."""
    from vla.sim_eval.statistics import mcnemar_exact, wilson_interval

    first, *_ = found
    tasks = list(found[first]["solved"])
    table = Table("variant", "solved", "95 %", *tasks, "wins : losses", f"p against {first}", *more)
    reference = [x for task in tasks for x in found[first]["solved"][task]]
    for name, result in found.items():
        flat = [x for task in tasks for x in result["solved"][task]]
        wins = sum(a and not b for a, b in zip(flat, reference, strict=True))
        losses = sum(b and not a for a, b in zip(flat, reference, strict=True))
        low, high = wilson_interval(sum(flat), len(flat))
        p = None if name == first else mcnemar_exact(wins, losses, len(flat) - wins - losses)
        result |= {
            "successes": sum(flat),
            "episodes": len(flat),
            "interval": [low, high],
            "p_against_first": p,
        }
        result |= {"wins": wins, "losses": losses}
        cells = [f"{sum(result['solved'][task])}/{len(result['solved'][task])}" for task in tasks]
        paired = ["", ""] if p is None else [f"{wins} : {losses}", f"{p:.2g}"]
        extra = [f"{result[key]:.3g}" if key in result else "" for key in more]
        table.add_row(
            titles[name],
            f"{sum(flat)}/{len(flat)}",
            f"{100 * low:.0f}-{100 * high:.0f}",
            *cells,
            *paired,
            *extra,
        )
    return table
