"""The whole story in one call: data of mixed quality is made, RT-1 clones it, offline RL makes the clone better, and the same
unseen starts measure both.

`demo.yaml` beside this file is the default; every value can be overridden.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator
from rich.console import Console

from vla.config import RootConfig, read_yaml
from vla.recipes.evaluate import Baseline
from vla.sim_eval import CollectConfig, EvalConfig, Results, collect, evaluate, write_report
from vla.sim_eval.comparison.comparison import compare
from vla.training import TrainConfig, train
from vla.types import Actor

_DEFAULT = Path(__file__).with_suffix(".yaml")


class DemoConfig(RootConfig):
    """Configs that share one folder. What is not given is taken from the default demo."""

    out: str = "runs/demo"
    """Folder of the dataset, the training runs, the results and the report."""
    collect: CollectConfig = Field(default=...)
    """Episodes, good and bad; its `out` is always `<out>/dataset`."""
    train: TrainConfig = Field(default=...)
    """Pretraining by imitation of all of it; its `out` is always `<out>/train`."""
    finetune: TrainConfig = Field(default=...)
    """Offline RL from there on; its `out` is always `<out>/finetune`."""
    eval: EvalConfig = Field(default=...)
    """Evaluation; its `out` is always `<out>`."""

    @model_validator(mode="before")
    @classmethod
    def _with_defaults(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        merged = _merge(read_yaml(_DEFAULT), values)
        out = Path(str(merged.get("out", "runs/demo")))
        data = {"path": str(out / "dataset")}
        places = {
            "collect": {"out": str(out / "dataset")},
            "train": {"out": str(out / "train"), "data": data},
            "finetune": {
                "out": str(out / "finetune"),
                "data": data,
                "init_from": str(out / "train" / "policy"),
            },
            "eval": {"out": str(out), "policy": str(out / "finetune" / "policy")},
        }
        return _merge(merged, places)


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` laid on `base`, key by key; a choice with another `type` replaces the whole choice."""
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        same_choice = (
            isinstance(below, dict)
            and isinstance(value, dict)
            and ("type" not in value or value["type"] == below.get("type"))
        )
        result[key] = _merge(below, value) if same_choice and isinstance(below, dict) else value
    return result


def demo(config: DemoConfig) -> Path:
    """Collects, trains, fine-tunes, evaluates both policies beside the expert and a random policy, writes one report.

    Steps that an earlier run in the same folder finished are resumed, not repeated. Returns the folder, which holds
    `results.json` and `episodes.parquet` of the fine-tuned policy, `compare.json` (its paired test against the clone),
    `report.html` and `timings.json`.
    """
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    console, seconds, started = Console(), {}, time.perf_counter()

    def step(name: str) -> None:
        nonlocal started
        started = time.perf_counter()
        console.rule(name)

    step("1/4  episodes of mixed quality")
    collect(config.collect, resume=(out / "dataset").exists())
    seconds["collect"] = time.perf_counter() - started

    step(f"2/4  RT-1 by {config.train.objective.type}, of all of them")
    cloned = train(config.train, resume=(out / "train").exists())
    seconds["train"] = time.perf_counter() - started

    step(f"3/4  fine-tuned by {config.finetune.objective.type}, on the same episodes")
    tuned = train(config.finetune, resume=(out / "finetune").exists())
    seconds["finetune"] = time.perf_counter() - started

    step("4/4  evaluation on unseen seeds")
    rows: list[Results] = []
    before, after = (f"rt1-{stage.objective.type}" for stage in (config.train, config.finetune))
    after = f"{after}-finetuned" if after == before else after
    actors: dict[str, tuple[Actor | Baseline, str]] = {
        after: (tuned.policy, str(out / "finetune" / "policy")),
        before: (cloned.policy, str(out / "train" / "policy")),
        "expert": ("expert", "expert"),
        "random": ("random", "random"),
    }
    for name, (actor, policy) in actors.items():
        place = str(out if name == after else out / name)
        settings = config.eval.model_copy(update={"out": place, "policy": policy})
        rows.append(evaluate(actor, settings, name=name, command="vla demo"))
    comparison = compare(rows[:2])
    comparison.save(out)
    seconds["evaluate"] = time.perf_counter() - started

    measured = {row.policy: row.to_dict()["overall"] for row in rows}
    tuned.policy.card["results"] = {
        **tuned.policy.card.get("results", {}),
        "suite": rows[0].suite,
        **measured,
    }
    tuned.policy.save_pretrained(out / "finetune" / "policy")

    write_report(out / "report.html", rows)
    (out / "timings.json").write_text(
        json.dumps({k: round(v, 1) for k, v in seconds.items()}, indent=2) + "\n"
    )
    for row in rows:
        console.print(row.table())
    console.print(comparison.tables())
    console.print("minutes: " + ", ".join(f"{k} {v / 60:.1f}" for k, v in seconds.items()))
    return out
