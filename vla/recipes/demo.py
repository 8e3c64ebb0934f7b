"""The whole story in one call.

Episodes are recorded, RT-1 clones them, offline RL goes on from the clone, and so do controls that
learn no values. The same unseen starts measure them all. `demo.yaml` beside this file is the
default; every value can be overridden.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, StringConstraints, model_validator

from vla.common.atomic import write_json
from vla.common.folder_lock import alone
from vla.common.terminal.consoles import output_console
from vla.common.terminal.visible_console import VisibleConsole
from vla.config import Choice, PathText, RootConfig, read_yaml
from vla.models import Policy
from vla.recipes.evaluate import Baseline
from vla.sim_eval import CollectConfig, EvalConfig, Results, collect, evaluate, write_report
from vla.sim_eval.comparison.comparison import Comparison, Pair, compare
from vla.training import TrainConfig, train
from vla.types import Actor

Values = dict[str, Any]
FolderName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
_DEFAULT = Path(__file__).with_suffix(".yaml")


class DemoConfig(RootConfig):
    """Configs that share one folder. What is not given is taken from the default demo."""

    out: PathText = "runs/demo"
    """Folder of the dataset, the training runs, the results and the report."""
    collect: CollectConfig = Field(default=...)
    """The episodes; its `out` is always `<out>/dataset`."""
    train: TrainConfig = Field(default=...)
    """Pretraining by imitation of all of it; its `out` is always `<out>/train`."""
    finetune: TrainConfig = Field(default=...)
    """Offline RL from there on; its `out` is always `<out>/finetune`."""
    controls: dict[FolderName, Annotated[Any, Choice("objectives")]] = Field(default=...)
    """Name -> objective in place of that of `finetune`, with all else as it is there: what offline
    RL has to beat. Each is trained in `<out>/NAME`."""
    eval: EvalConfig = Field(default=...)
    """Evaluation; its `out` is always `<out>`."""

    @model_validator(mode="before")
    @classmethod
    def _with_defaults(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        # Filled in before anything is checked: `{"train": {"steps": 7}}` alone is no TrainConfig.
        merged = _merge(read_yaml(_DEFAULT), values)
        if "controls" in values:
            # a list of its own: one that is not named is not trained
            merged["controls"] = values["controls"]
        out = str(merged.get("out", "runs/demo"))
        return _merge(merged, _paths(Path(out)))


def _paths(out: Path) -> Values:
    """Where each step finds what the one before has left, whatever a config says."""
    dataset = str(out / "dataset")
    clone = out / "train"
    tuned = out / "finetune"
    return {
        "collect": {"out": dataset},
        "train": {
            "out": str(clone),
            "data": {"path": dataset},
        },
        "finetune": {
            "out": str(tuned),
            "data": {"path": dataset},
            "init_from": str(clone / "policy"),
        },
        "eval": {
            "out": str(out),
            "policy": str(tuned / "policy"),
        },
    }


def _merge(base: Values, over: Values) -> Values:
    """`over` laid on `base`, key by key."""
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        if _may_merge(below, value):
            result[key] = _merge(result[key], value)
        else:
            result[key] = value
    return result


def _may_merge(below: Any, value: Any) -> bool:
    if not isinstance(below, dict) or not isinstance(value, dict):
        return False
    # options of one type are unknown keys of another: another `type` replaces the whole choice
    return "type" not in value or value["type"] == below.get("type")


def demo(config: DemoConfig) -> Path:
    """Collects, trains, fine-tunes by offline RL and by each control, and evaluates all of them.

    The expert and a random policy show the range. Steps that an earlier run in the same folder
    finished are resumed, not repeated. Returns the folder, which holds `results.json` and
    `episodes.parquet` of the fine-tuned policy, `compare.json` (paired tests of all trained
    policies), `report.html` and `timings.json`.
    """
    out = Path(config.out)
    with alone(out):
        return _demo(config, out)


def _demo(config: DemoConfig, out: Path) -> Path:
    console = output_console()
    steps = 4 + len(config.controls)
    clock = _StepClock(console, steps)

    clock.start("collect", "episodes to learn from")
    # a folder that exists is continued: a demo that was interrupted does not begin again
    collect(config.collect, resume=(out / "dataset").exists())

    clock.start("train", f"RT-1 by {config.train.objective.type}, from all of them")
    cloned = train(config.train, resume=(out / "train").exists())

    controls = {}
    for name, objective in config.controls.items():
        clock.start(name, f"the clone continued: {name}")
        place = out / name
        values = {"objective": objective, "out": str(place)}
        settings = config.finetune.model_copy(update=values)
        controls[name] = train(settings, resume=place.exists()).policy

    objective = config.finetune.objective.type
    clock.start("finetune", f"the clone continued by {objective}, on the same episodes")
    tuned = train(config.finetune, resume=(out / "finetune").exists())

    clock.start("evaluate", "evaluation on unseen seeds")
    rows = _evaluate(config, tuned.policy, cloned.policy, controls)
    # the tests are between what was trained; the baselines show the range
    trained = rows[: 2 + len(controls)]
    comparison = compare(trained)
    comparison.save(out)
    clock.stop()

    # training saved it already; this time its card holds the results
    _write_into_card(tuned.policy, rows)
    tuned.policy.save_pretrained(out / "finetune" / "policy")
    write_report(out / "report.html", rows)
    rounded = {}
    for name, seconds in clock.seconds.items():
        rounded[name] = round(seconds, 1)
    write_json(out / "timings.json", rounded)
    for row in rows:
        console.print(row.table())
    console.print()
    console.print(comparison.tables())
    console.print()
    for line in against_controls(comparison, trained[0].policy, list(controls)):
        console.print(line)
    minutes = [f"{name} {seconds / 60:.1f}" for name, seconds in clock.seconds.items()]
    console.print("minutes: " + ", ".join(minutes))
    return out


def against_controls(comparison: Comparison, tuned: str, controls: list[str]) -> list[str]:
    """Whether offline RL was better than each control, a line for each, and what follows.

    Args:
        tuned: name of the policy that offline RL made.
    """
    beaten: list[str] = []
    stronger: list[str] = []
    alike: list[str] = []
    lines = []
    for control in controls:
        for pair in comparison.pairs:
            if {pair.a, pair.b} != {tuned, control}:
                continue
            lines.append(_line(pair))
            differs = pair.p_adjusted <= comparison.alpha
            # the better of a pair is its first
            found = alike if not differs else beaten if pair.a == tuned else stronger
            found.append(control)
    if controls and len(beaten) == len(controls):
        lines.append(f"{tuned} is better than every control, in this one training of each.")
    if stronger:
        lines.append(
            f"{', '.join(stronger)}, which learns no values, is better than {tuned} on these data."
        )
    if alike:
        lines.append(
            f"{tuned} was not shown to be better than {', '.join(alike)}: here that control does "
            "as well, and values are not what made the difference."
        )
    return lines


def _line(pair: Pair) -> str:
    episodes = min(pair.episodes)
    won, lost = pair.successes
    return (
        f"{pair.a} {won}, {pair.b} {lost} of {episodes}; only one of them: "
        f"{pair.wins} : {pair.losses}, p = {pair.p_adjusted:.2g}"
    )


class _StepClock:
    """Announces the steps of the demo and measures them, in seconds."""

    def __init__(self, console: VisibleConsole, steps: int) -> None:
        self.seconds: dict[str, float] = {}
        self._console = console
        self._steps = steps
        self._running: tuple[str, float] | None = None

    def start(self, name: str, title: str) -> None:
        self.stop()
        self._running = (name, time.perf_counter())
        self._console.rule(f"{len(self.seconds) + 1}/{self._steps}  {title}")

    def stop(self) -> None:
        if self._running is not None:
            name, started = self._running
            self.seconds[name] = time.perf_counter() - started
            self._running = None


def _evaluate(
    config: DemoConfig, tuned: Policy, cloned: Policy, controls: dict[str, Policy]
) -> list[Results]:
    """The results of the fine-tuned policy, the clone, the controls, the expert and chance."""
    out = Path(config.out)
    before = f"rt1-{config.train.objective.type}"
    after = f"rt1-{config.finetune.objective.type}"
    if after == before:
        # a table needs two names
        after = f"{after}-finetuned"
    actors: dict[str, tuple[Actor | Baseline, str]] = {
        after: (tuned, str(out / "finetune" / "policy")),
        before: (cloned, str(out / "train" / "policy")),
    }
    for name, policy in controls.items():
        actors[name] = (policy, str(out / name / "policy"))
    actors["expert"] = ("expert", "expert")
    actors["random"] = ("random", "random")
    rows = []
    for name, (actor, origin) in actors.items():
        # the fine-tuned policy's results are those of the whole demo: they lie at its top
        place = out if name == after else out / "eval" / name
        settings = config.eval.model_copy(update={"out": str(place), "policy": origin})
        rows.append(
            evaluate(actor, settings, name=name, command="vla demo", resume=True, restart=True)
        )
    return rows


def _write_into_card(policy: Policy, rows: list[Results]) -> None:
    results = dict(policy.card.get("results", {}))
    results["suite"] = rows[0].suite
    for row in rows:
        results[row.policy] = row.to_dict()["overall"]
    policy.card["results"] = results
