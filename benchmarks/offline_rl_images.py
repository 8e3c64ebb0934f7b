"""Ways of offline RL on images and language, over several trainings: one policy cloned from the data, continued by each.

Every row starts from the same clone of its seed, with the same head, chunk, batch, optimiser, number of steps and sampler, and
plays the same unseen starts. What differs beside the objective stands in the row (`differs`). Controls: no values under the same
sampler, and imitation of the better part of the data (solved episodes, the fastest, the last steps before success).

    python benchmarks/offline_rl_images.py --config configs/tabletop_offline.yaml --collect --seeds 0 1 2 3 4

Finished trainings and evaluations are kept below --out as JSON and not repeated, nor is what the result file of an earlier run with
the same settings holds; the same command in a second process shares the work. Threads are those of OMP_NUM_THREADS, precision that of the config.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from _common import RESULTS, prepare_cpu, publish
from _offline_records import kept, restore
from _offline_rows import CONFIGS, SEARCH, Row, available, shared_settings
from _offline_table import outcomes, rate_interval, summarise, table
from _offline_trainings import (
    CLONE,
    Setup,
    clone,
    fine_tune,
    marks_detours,
    prepare_data,
    record_of,
)

from vla.config import ConfigError


def arguments_of(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config", type=Path, default=CONFIGS / "tabletop_offline.yaml")
    add("--data", default=None, help="dataset; the config's by default")
    add("--collect", action="store_true", help="make the dataset by the config's section collect")
    add("--rows", nargs="+", choices=sorted(available()), help="by default all")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4], help="of clone and fine-tuning")
    add("--clone-steps", type=int, default=None, help="the config's by default")
    add("--steps", type=int, default=1000, help="of every row, from the clone on")
    add("--lr", type=float, default=5e-4, help="peak learning rate of every row")
    share = "of each task's windows, where some episodes fail; 0 leaves it to the data"
    add("--solved-share", type=float, default=0.85, help=share)
    add("--starts", type=int, default=25, help="unseen starts of each task, the same for all")
    add("--within", nargs="*", type=int, default=[], help="also count successes within N steps")
    add("--workers", type=int, default=None, help="processes of the envs; 0 for none")
    add("--out", type=Path, default=None, help="by default runs/offline_rl/CONFIG")
    add("--name", default=None, help="of the result file; by default offline_rl_CONFIG")
    add("--result", type=Path, default=None, help="path of the result file")
    add("--table-only", action="store_true", help="train nothing: show what is finished")
    return parser.parse_args(argv)


def setup_of(arguments: argparse.Namespace) -> Setup:
    stem = arguments.config.stem
    return Setup(
        config=arguments.config,
        data=arguments.data,
        out=arguments.out or Path("runs/offline_rl") / stem,
        clone_steps=arguments.clone_steps,
        steps=arguments.steps,
        lr=arguments.lr,
        solved_share=arguments.solved_share or None,
        starts=arguments.starts,
        workers=arguments.workers,
    )


def readable_rows(setup: Setup, names: list[str] | None) -> dict[str, Row]:
    """The rows by name; all that this version can read by default.

    Raises ConfigError if a row that was named cannot be read: before anything is trained.
    """
    found = {}
    rows = available()
    for name in names or rows:
        try:
            setup.row_config(name, rows[name], 0)
            found[name] = rows[name]
        except ConfigError as error:
            if names:
                raise
            print(f"{name} is left out: {error}", flush=True)
    return found


def without_oracle(rows: dict[str, Row]) -> dict[str, Row]:
    """The rows that data without the truth can teach."""
    left_out = [name for name, row in rows.items() if row.kind == "oracle"]
    if left_out:
        print(f"{', '.join(left_out)}: left out, for the data mark no detours")
    return {name: row for name, row in rows.items() if row.kind != "oracle"}


def work(setup: Setup, rows: dict[str, Row], seeds: list[int]) -> None:
    """Seed by seed, so that an interrupted run has whole comparisons."""
    for seed in seeds:
        missing = {name: row for name, row in rows.items() if not record_of(setup, name, seed)}
        if missing or not record_of(setup, CLONE, seed):
            clone(setup, seed)
        for name, row in missing.items():
            record = fine_tune(setup, name, row, seed)
            if record is None:
                print(f"{name}, seed {seed}: another process works on it", flush=True)


def finished(setup: Setup, rows: dict[str, Row], seeds: list[int]) -> dict[str, dict[int, Any]]:
    """Row -> seed -> record, of what is finished; the others are named."""
    found: dict[str, dict[int, Any]] = {}
    for name in rows:
        of_seed = {seed: record_of(setup, name, seed) for seed in seeds}
        missing = [seed for seed, record in of_seed.items() if record is None]
        if missing:
            print(f"{name}: no results of seeds {missing}", flush=True)
        present = {seed: record for seed, record in of_seed.items() if record is not None}
        if present:
            found[name] = present
    return found


def main(argv: list[str] | None = None) -> dict[str, Any]:
    import torch

    arguments = arguments_of(argv)
    prepare_cpu(torch.get_num_threads())
    setup = setup_of(arguments)
    rows = readable_rows(setup, arguments.rows)
    name = arguments.name or f"offline_rl_{arguments.config.stem}"
    path = arguments.result or RESULTS / f"{name}.json"
    settings = {
        "config": f"configs/{arguments.config.name}",
        "steps": setup.steps,
        "clone_steps": setup.clone_config(0).steps,
        "lr": setup.lr,
        "solved_share": setup.solved_share,
    }
    restored = restore(setup, path, settings)
    if restored:
        print(f"{path}: has {', '.join(restored)}", flush=True)
    if not arguments.table_only:
        prepare_data(setup, collect=arguments.collect)
        if not marks_detours(setup):
            rows = without_oracle(rows)
        work(setup, rows, arguments.seeds)
    records = finished(setup, rows, arguments.seeds)
    clones = finished(setup, {CLONE: rows[next(iter(rows))]}, arguments.seeds)
    if not records or not clones:
        raise SystemExit(f"{setup.out}: nothing is finished")
    found = summarise(records, rows, within=arguments.within)
    cloned_SN = outcomes(clones[CLONE])
    return publish(
        name,
        ours=None,
        theirs=None,
        ratio=None,
        unit="episodes solved, of the same starts, over trainings",
        table=table(found),
        path=path,
        seeds=arguments.seeds,
        **settings,
        shared=shared_settings(setup.config),
        search=SEARCH,
        clone={
            "seeds": sorted(clones[CLONE]),
            "successes": [int(n) for n in cloned_SN.sum(1)],
            "rate": float(cloned_SN.mean()),
            "interval": rate_interval(cloned_SN),
        },
        rows=found,
        records=kept(records, clones),
    )


if __name__ == "__main__":
    main()
