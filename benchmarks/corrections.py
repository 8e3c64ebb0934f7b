"""Corrections against more demonstrations: an expert labels what the policy does, or goes on by itself.

    python benchmarks/corrections.py fetch [--variants dagger ...] [--seeds 3]
    python benchmarks/corrections.py tabletop [--variants dagger ...] [--seeds 3]

Each seed has a clone of its own; all variants go on from it in the same loop, with as many updates, and play the same
unseen starts. The control, `demonstrations`, differs in one thing: the expert acts, and its episodes have no more
labelled steps than those of DAgger (the table says how many). What is done lies in runs/corrections and is not repeated. Writes
results/corrections_NAME.json.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _common import prepare_cpu, publish
from _variants import compared, learn_and_play, outcomes

CONFIGS = Path(__file__).parents[1] / "configs"


@dataclass(frozen=True)
class Setting:
    """A suite, its clones and how they go on.

    Attributes:
        cloned: config with the sections collect, train and eval.
        online: config with the section online.
        collect, train, play, go_on: overrides of the sections, `go_on` of online.
        divisor: what the episodes of a round must be a multiple of.
    """

    cloned: str
    online: str
    collect: tuple[str, ...] = ()
    train: tuple[str, ...] = ()
    play: tuple[str, ...] = ()
    go_on: tuple[str, ...] = ()
    divisor: int = 1


SETTINGS = {
    # 20 demonstrations, from states, 200 starts
    "fetch": Setting("fetch_dagger.yaml", "fetch_dagger.yaml"),
    # 200 demonstrations of each of five families, from pictures, 40 starts of each
    "tabletop": Setting(
        "tabletop.yaml",
        "tabletop_dagger.yaml",
        collect=("episodes_per_task=200",),
        train=("steps=1200",),
        go_on=("precision=bf16", "act.stop_if_stuck={steps: 20, tolerance: 0.005}"),
        divisor=5,
    ),
}
TITLES = {
    "clone": "the clone",
    "demonstrations": "demonstrations: the expert acts",
    "dagger": "DAgger, whole chunks labelled",
    "first_action": "DAgger, the first action of a chunk labelled",
    "corrections": "corrections alone (expert_error)",
}
VARIANTS: dict[str, tuple[str, ...]] = {
    "dagger": (),
    "first_action": ("label.whole_chunks=false",),
    "corrections": (
        "label={gate: {type: expert_error, threshold: 0.5}, hold: 2, learn: corrections}",
    ),
}
"""name -> overrides of the online config."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suite", choices=SETTINGS)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seeds", type=int, default=3, help="clones, and runs of each variant")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs/corrections"))
    arguments = parser.parse_args()
    prepare_cpu(arguments.threads)

    bench = Bench(SETTINGS[arguments.suite], arguments.runs / arguments.suite)
    names = ["clone", "demonstrations", *dict.fromkeys(["dagger", *arguments.variants])]
    found: dict[str, dict[str, Any]] = {name: {"solved": {}, "labels": {}} for name in names}
    for seed in range(1, arguments.seeds + 1):
        clone = bench.clone(seed)
        runs = {name: bench.going_on(name, seed, VARIANTS[name]) for name in names[2:]}
        more = bench.labels(bench.runs / f"dagger_{seed}", VARIANTS["dagger"])
        runs["demonstrations"] = bench.demonstrations(seed, more)
        for name, solved in {"clone": clone, **runs}.items():
            # one column a seed, not one a task
            starts = [start for of_task in solved.values() for start in of_task]
            found[name]["solved"][f"seed {seed}"] = starts
            if name != "clone":
                run = bench.runs / f"{name}_{seed}"
                found[name]["labels"][seed] = bench.labels(run, VARIANTS.get(name, ()))
    for result in found.values():
        if result["labels"]:
            result["mean_labels"] = float(np.mean(list(result["labels"].values())))
    publish(
        f"corrections_{arguments.suite}",
        ours=None,
        theirs=None,
        ratio=None,
        unit="share solved",
        table=compared(found, TITLES, more=["mean_labels"]),
        variants=found,
        titles=TITLES,
        seeds=arguments.seeds,
        clone_labels=bench.frames(bench.data),
    )


class Bench:
    """The runs of one suite in a folder."""

    def __init__(self, setting: Setting, runs: Path) -> None:
        from vla.config import load_config
        from vla.sim_eval.collection.recording import CollectConfig, collect

        self.setting = setting
        self.runs = runs
        self.cloned = CONFIGS / setting.cloned
        self.online = CONFIGS / setting.online
        overrides = [f"out={runs / 'data'}", "workers=1", *setting.collect]
        config = load_config(CollectConfig, self.cloned, overrides, section="collect")
        self.data = collect(config, resume=True)

    def clone(self, seed: int) -> dict[str, list[bool]]:
        result = learn_and_play(
            f"clone, seed {seed}",
            self.runs / f"clone_{seed}",
            self.cloned,
            [f"data.path={self.data}", f"seed={seed}", *self.setting.train],
            list(self.setting.play),
        )
        return dict(result["solved"])

    def demonstrations(self, seed: int, labels: int) -> dict[str, list[bool]]:
        """The expert plays until it has shown about as many steps."""
        from vla.data import EpisodeDataset

        length = self.frames(self.data) / len(EpisodeDataset(self.data))
        rounds = self._config(seed, self.runs, ()).rounds
        wanted = labels / rounds / length
        step = self.setting.divisor
        episodes = max(step, step * round(wanted / step))
        overrides = (f"episodes_per_round={episodes}", "label.beta=1", "label.beta_decay=1")
        return self.going_on("demonstrations", seed, overrides)

    def going_on(self, name: str, seed: int, overrides: tuple[str, ...]) -> dict[str, list[bool]]:
        """One run of `vla online` from the clone of this seed: whether each start was solved."""
        from vla.config import load_config
        from vla.models import load_policy
        from vla.recipes.online import online
        from vla.sim_eval.evaluation import EvalConfig, evaluate

        out = self.runs / f"{name}_{seed}"
        online(self._config(seed, out, overrides), resume=True)
        played = [f"out={out / 'eval'}", "videos_per_task=0", "failure_videos=0"]
        results = evaluate(
            load_policy(out / "policy"),
            load_config(EvalConfig, self.cloned, [*played, *self.setting.play], section="eval"),
            name=f"{name}, seed {seed}",
            resume=True,
            restart=True,
        )
        return outcomes(results)

    def _config(self, seed: int, out: Path, overrides: tuple[str, ...]) -> Any:
        from vla.config import load_config
        from vla.recipes.online import OnlineConfig

        given = [
            f"init_from={self.runs / f'clone_{seed}' / 'policy'}",
            f"prior_data.path={self.data}",
            f"out={out}",
            f"seed={seed}",
            "evaluate=null",
            *self.setting.go_on,
            *overrides,
        ]
        return load_config(OnlineConfig, self.online, given, section="online")

    def labels(self, run: Path, overrides: tuple[str, ...]) -> int:
        """Steps that the expert has labelled in a run of `vla online`."""
        from vla.data import EpisodeDataset

        columns = EpisodeDataset(run / "episodes").columns
        if any("learn: corrections" in text for text in overrides):
            return int(np.count_nonzero(columns.extras["intervention"]))
        return len(columns.actions)

    @staticmethod
    def frames(data: Path) -> int:
        from vla.data import EpisodeDataset

        return len(EpisodeDataset(data).columns.actions)


if __name__ == "__main__":
    main()
