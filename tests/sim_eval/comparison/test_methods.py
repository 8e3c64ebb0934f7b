"""Methods by several trainings: what is answered, how trainings are paired, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from vla.cli import app
from vla.sim_eval.comparison.comparability import ComparisonError
from vla.sim_eval.comparison.methods import compare_methods
from vla.sim_eval.comparison.results import Results
from vla.sim_eval.rollouts.jobs import EpisodeRecord
from vla.sim_eval.statistics import method_difference

CONFIG = {"env": {"type": "toys"}, "policy": "x", "seed": 0}
STARTS = 40


def trained(method: str, seed: int, *, rate: float, origin: str = "", **changes: object) -> Results:
    """An evaluation of one training of a method, whose outcomes are drawn by its seed."""
    random = np.random.default_rng((seed, len(method)))
    solved = random.random(STARTS) < rate
    episodes = tuple(
        EpisodeRecord("task", "all", e, 10 + e, "Do it", bool(s), bool(s), 9, 0.0, "")
        for e, s in enumerate(solved)
    )
    training = {
        "seed": seed,
        "objective": method,
        "method": f"{method}-settings",
        "origin": origin,
        "training": f"{method}-{seed}",
    }
    values = {"versions": {"mujoco": "3.3.0"}, "config": CONFIG, "training": training}
    return Results(f"{method}_s{seed}", "toys", episodes, **(values | changes))


def group(method: str, rate: float, seeds: int = 5, **changes: object) -> list[Results]:
    return [trained(method, seed, rate=rate, **changes) for seed in range(seeds)]


GROUPS = {"iql": group("iql", 0.8), "bc": group("bc", 0.3)}


def matrix(runs: list[Results]) -> np.ndarray:
    return np.array([[record.success_ever for record in run.episodes] for run in runs], float)


def test_methods_are_tested_over_trainings_and_starts() -> None:
    comparison = compare_methods(GROUPS)
    [pair] = comparison.pairs
    assert list(comparison.methods) == ["iql", "bc"]
    expected = method_difference(matrix(GROUPS["iql"]), matrix(GROUPS["bc"]), paired=False)
    assert pair.found == expected
    assert pair.verdict(0.05) == "iql is better"
    assert comparison.letters == {"iql": "a", "bc": "b"}
    assert comparison.warnings == comparison.notes == ()
    assert comparison.to_dict()["question"].startswith("these methods")


def test_trainings_from_the_same_clones_are_paired_whatever_their_order() -> None:
    clones = [f"clone-{seed}" for seed in range(4)]
    a = [trained("iql", s, rate=0.6, origin=clones[s]) for s in range(4)]
    b = [trained("awac", s, rate=0.5, origin=clones[s]) for s in range(4)]
    [pair] = compare_methods({"iql": a, "awac": b[::-1]}).pairs
    first, second = (a, b) if pair.a == "iql" else (b, a)
    assert pair.found.paired
    assert pair.found == method_difference(matrix(first), matrix(second), paired=True)
    # one clone for all: its luck is not that of the method, and does not make pairs
    alone = [trained("iql", s, rate=0.6, origin="clone-0") for s in range(4)]
    other = [trained("awac", s, rate=0.5, origin="clone-0") for s in range(4)]
    assert not compare_methods({"iql": alone, "awac": other}).pairs[0].found.paired


SAME = trained("iql", 0, rate=0.8)


@pytest.mark.parametrize(
    ("groups", "line"),
    [
        (
            GROUPS | {"bc": group("bc", 0.3, 1)},
            "bc: one training, which says nothing of the method",
        ),
        (
            GROUPS | {"bc": [*group("bc", 0.3, 2), trained("awr", 7, rate=0.3)]},
            "bc: trainings of several methods, bc bc-s (seed 0, seed 1), awr awr- (seed 7)",
        ),
        (GROUPS | {"iql": [SAME, replace(SAME)]}, "training: the same one in iql seed 0 and"),
        (
            {"x": GROUPS["iql"][:2], "y": GROUPS["iql"][2:]},
            "method: x and y were trained alike; put their runs into one group",
        ),
        (
            GROUPS | {"bc": [replace(run, suite="other") for run in GROUPS["bc"]]},
            "suite: toys (iql seed 0, ",
        ),
    ],
)
def test_what_would_mislead_is_refused_unless_forced(groups: dict, line: str) -> None:
    with pytest.raises(ComparisonError) as error:
        compare_methods(groups)
    assert line in str(error.value)
    assert "--force" in str(error.value)
    forced = compare_methods(groups, force=True)
    assert any(line in warning for warning in forced.warnings)


def test_results_that_do_not_say_their_training_are_noted() -> None:
    silent = [replace(run, training={}) for run in GROUPS["bc"]]
    [note] = compare_methods(GROUPS | {"bc": silent}).notes
    assert "bc run 1" in note
    assert "was not checked" in note


def test_command_compares_methods_by_names_patterns_and_records(tmp_path: Path) -> None:
    for name, runs in GROUPS.items():
        for seed, run in enumerate(runs):
            run.save(tmp_path / f"{name}_s{seed}" / "eval")
    out = ["--out", str(tmp_path / "out")]
    listed = ",".join(str(tmp_path / f"bc_s{seed}" / "eval") for seed in range(5))
    named = [f"iql={tmp_path}/iql_s*/eval", f"bc={listed}"]
    result = CliRunner().invoke(app, ["compare", *named, *out])
    assert result.exit_code == 0, result.output
    assert "these methods" in result.output
    written = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert written["pairs"][0]["verdict"] == "iql is better"
    assert len(written["methods"]["bc"]["trainings"]) == 5
    folders = [str(path) for path in sorted(tmp_path.glob("*_s*/eval"))]
    assert CliRunner().invoke(app, ["compare", "--methods", *folders, *out]).exit_code == 0
    assert json.loads((tmp_path / "out" / "compare.json").read_text()) == written
    # one training each
    networks = [folders[0], folders[-1]]
    refused = CliRunner().invoke(app, ["compare", "--methods", *networks, *out])
    assert refused.exit_code == 2
    plain = CliRunner().invoke(app, ["compare", *networks, *out])
    assert plain.exit_code == 0, plain.output
    assert "these networks, each of one training" in " ".join(plain.output.split())
    odd = CliRunner().invoke(app, ["compare", named[0], folders[0], *out])
    assert odd.exit_code == 2
