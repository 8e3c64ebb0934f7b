"""Results of others with odd values in every field: what `vla compare` makes of them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from attacks._case import Case
from attacks._checkpoints import ODD
from attacks._datasets import run_command

COUNT = 120


def warm() -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        runs = [write_run(Path(folder) / name, name) for name in ("a", "b")]
        run_command(["compare", *map(str, runs), "--force", "--out", f"{folder}/out"])


def write_run(folder: Path, policy: str) -> Path:
    """A folder as an evaluation leaves it."""
    from vla.sim_eval.comparison.results import Results
    from vla.sim_eval.rollouts.jobs import EpisodeRecord

    def record(episode: int) -> EpisodeRecord:
        good = (episode + len(policy)) % 3 > 0
        return EpisodeRecord(
            "lift", "easy", episode, 7, "lift it", good, good, 30, -1.0, "" if good else "slow", ""
        )

    folder.mkdir(parents=True)
    found = Results(policy, "toys", tuple(map(record, range(12))), {"x": "1"}, {"seed": 0})
    found.save(folder)
    return folder


def case(rng: random.Random, folder: Path) -> Case:
    runs = [write_run(folder / name, name) for name in ("a", "b")]
    change = rng.choice([_value, _value, _column, _column, _row, _text])
    what = change(rng, runs[0])
    command = ["compare", *map(str, runs), "--force", "--out", str(folder / "out")]
    return Case(what, lambda: run_command(command), check=_numbers)


def _value(rng: random.Random, run: Path) -> str:
    path = run / "results.json"
    values = json.loads(path.read_text())
    key = rng.choice(sorted(values))
    values[key] = rng.choice(ODD)
    path.write_text(json.dumps(values))
    return f"results.json: {key} = {str(values[key])[:40]!r}"


def _column(rng: random.Random, run: Path) -> str:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = run / "episodes.parquet"
    table = pq.read_table(path)
    name = rng.choice(table.column_names)
    odd = rng.choice(
        [
            "text",
            None,
            float("nan"),
            -1,
            7,
            10**18,
            1e308,
            True,
            "\x1b[2J",
            "[/red]x",
            [1],
            {"a": 1},
        ]
    )
    place = table.column_names.index(name)
    column = pa.array([odd] * len(table))
    pq.write_table(table.set_column(place, name, column), path)
    return f"episodes.parquet: {name} = {odd!r}"


def _row(rng: random.Random, run: Path) -> str:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = run / "episodes.parquet"
    table = pq.read_table(path)
    kind = rng.choice(["twice", "none", "fewer columns", "one episode"])
    if kind == "twice":
        table = pa.concat_tables([table, table.slice(0, 1)])
    elif kind == "none":
        table = table.slice(0, 0)
    elif kind == "fewer columns":
        table = table.drop([rng.choice(table.column_names)])
    else:
        table = table.slice(0, 1)
    pq.write_table(table, path)
    return f"episodes.parquet: {kind}"


def _text(rng: random.Random, run: Path) -> str:
    path = run / rng.choice(["results.json", "episodes.parquet"])
    damage: Any = rng.choice(
        [b"", b"[" * 100_000, b"\xff\xfe", b"{}", b"PAR1PAR1PAR1", b"null", b"[1]", b"nan"]
    )
    path.write_bytes(damage)
    return f"{path.name}: {damage[:12]!r}"


def _numbers(output: str) -> str:
    """Whether something that is no number stands in the comparison."""
    import re

    return "a number is nan" if re.search(r"\b(nan|inf)\b", output.lower()) else ""
