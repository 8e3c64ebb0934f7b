"""Comparisons of evaluations: what is refused, what is counted, and what many policies look like."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from vla.cli import app
from vla.sim_eval.comparison.comparability import ComparisonError
from vla.sim_eval.comparison.comparison import compare, letters
from vla.sim_eval.comparison.results import Results, ResultsError
from vla.sim_eval.rollouts.jobs import EpisodeRecord
from vla.sim_eval.statistics import barnard, mcnemar_exact
from vla.sim_eval.statistics.newcombe import newcombe_interval, newcombe_paired_interval

VERSIONS = {"mujoco": "3.3.0", "gl_renderer": "llvmpipe", "torch": "2.6"}
CONFIG = {
    "env": {"type": "toys", "horizon": 50, "image_size": 64},
    "after_success_steps": 0,
    "policy": "x",
    "seed": 0,
}


def run(policy: str, outcomes: Sequence[int], tasks: int = 2, seed: int = 0, **changes) -> Results:
    """`outcomes` of episode after episode, the same in every task."""
    episodes = tuple(
        EpisodeRecord(
            f"task{t}",
            "all",
            e,
            1000 * seed + 10 * e + t,
            "Do it",
            bool(good),
            bool(good),
            9,
            0.0,
            "" if good else "dropped",
        )
        for t in range(tasks)
        for e, good in enumerate(outcomes)
    )
    values = {"versions": VERSIONS, "config": {**CONFIG, "policy": policy}, **changes}
    return Results(policy, "toys", episodes, **values)


GOOD, BAD = run("good", [1] * 9 + [0]), run("bad", [1, 1] + [0] * 8)


def test_pairs_are_counted_and_tested() -> None:
    comparison = compare([BAD, GOOD])
    [pair] = comparison.pairs
    assert list(comparison.runs) == ["good", "bad"]
    assert (pair.a, pair.b, pair.test, pair.episodes) == ("good", "bad", "McNemar", (20,))
    assert (pair.wins, pair.losses, pair.ties, pair.successes) == (14, 0, 6, (18, 4))
    assert pair.difference == pytest.approx(0.7)
    assert pair.interval[0] < 0.7 < pair.interval[1]
    assert pair.p_value == pair.p_adjusted == mcnemar_exact(14, 0)
    assert pair.better > 0.999
    assert pair.verdict(0.05) == "good is better"
    assert comparison.letters == {"good": "a", "bad": "b"}
    assert comparison.warnings == comparison.notes == ()


def test_losses_count_against() -> None:
    [pair] = compare([run("a", [1, 1, 1, 0, 0, 0, 1, 1]), run("b", [0, 0, 1, 1, 0, 0, 1, 0])]).pairs
    assert (pair.wins, pair.losses, pair.ties) == (6, 2, 8)


def test_many_policies_are_corrected_and_lettered() -> None:
    middle = run("middle", [1] * 4 + [0] * 6)
    comparison = compare([GOOD, middle, BAD])
    p = {(pair.a, pair.b): pair.p_adjusted for pair in comparison.pairs}
    raw = sorted(pair.p_value for pair in comparison.pairs)
    assert p["good", "bad"] == pytest.approx(3 * raw[0])
    assert comparison.letters == {"good": "a", "middle": "b", "bad": "b"}
    console = Console(width=150, record=True, file=io.StringIO())
    console.print(comparison.tables())
    text = console.export_text()
    assert "A is better" in text
    assert "too few to tell" in text, "only four pairs of middle and bad differ"


def test_names_are_never_cut() -> None:
    name = "checkpoints/tabletop_instructions_step-000100"
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(compare([replace(GOOD, policy=name), BAD]).tables())
    text = console.export_text()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    assert text.count(name) == 2, "in the ranking and in the pair, in one piece"


def test_brackets_in_a_name_are_printed() -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(compare([replace(GOOD, policy="bc [red]"), BAD]).tables())
    assert "A bc [red]" in console.export_text()


def test_letters_share_just_where_nothing_differs() -> None:
    names = list("ABCDE")
    pairs = list(itertools.combinations(names, 2))
    for bits in range(1 << len(pairs)):
        different = [pair for i, pair in enumerate(pairs) if bits >> i & 1]
        found = letters(names, different)
        for pair in pairs:
            assert (not set(found[pair[0]]) & set(found[pair[1]])) == (pair in different), (
                different,
                found,
            )


@pytest.mark.parametrize(
    ("other", "line"),
    [
        (
            replace(BAD, suite="other"),
            "suite: toys (good), other (bad); evaluate all policies on one suite",
        ),
        (run("bad", [0] * 10, seed=1), "seeds: 20 of 20 episodes started from different seeds"),
        (run("bad", [0] * 7), "episodes: 20 (good), 14 (bad), 14 in common"),
        (run("bad", [0] * 10, tasks=1), "tasks: bad lacks task1"),
        (
            replace(BAD, versions={**VERSIONS, "gl_renderer": "NVIDIA"}),
            "version of gl_renderer: llvmpipe (good), NVIDIA (bad)",
        ),
        (
            replace(BAD, versions={"mujoco": "3.3.0"}),
            "version of gl_renderer: llvmpipe (good), not recorded (bad)",
        ),
        (
            replace(BAD, config={**CONFIG, "env": {**CONFIG["env"], "horizon": 80}}),
            "env.horizon: 50 (good), 80 (bad); evaluate all policies with one env.horizon",
        ),
        (
            replace(BAD, config={**CONFIG, "after_success_steps": 5}),
            "after_success_steps: 0 (good), 5 (bad)",
        ),
        (
            replace(BAD, episodes=tuple(replace(r, instruction="") for r in BAD.episodes)),
            "instructions: 20 episodes had different instructions, for example '' / 'Do it'",
        ),
    ],
)
def test_what_differs_is_refused_unless_forced(other: Results, line: str) -> None:
    with pytest.raises(ComparisonError) as refused:
        compare([GOOD, other])
    assert f"\n  {line}" in str(refused.value)
    assert "--force" in str(refused.value)
    comparison = compare([GOOD, other], force=True)
    assert [text for text in comparison.warnings if text.startswith(line)]


def test_what_belongs_to_a_policy_may_differ() -> None:
    config = {
        **CONFIG,
        "policy": "y",
        "workers": 3,
        "replan_every": 4,
        "env": {**CONFIG["env"], "image_size": 96},
    }
    other = replace(BAD, versions={**VERSIONS, "torch": "2.7"}, config=config)
    comparison = compare([GOOD, other])
    assert not comparison.warnings
    assert "env.image_size: 64 (good), 96 (bad)" in comparison.notes[0]


def test_forced_runs_are_paired_on_what_they_share_or_not_at_all() -> None:
    [partly] = compare([GOOD, run("bad", [0] * 7)], force=True).pairs
    assert (partly.test, partly.episodes, partly.wins) == ("McNemar", (14,), 14)
    [apart] = compare([GOOD, run("bad", [1] + [0] * 9, seed=1)], force=True).pairs
    assert (apart.test, apart.episodes, apart.successes) == ("Barnard", (20, 20), (18, 2))
    assert apart.p_value == barnard(18, 20, 2, 20)
    [elsewhere] = compare(
        [GOOD, replace(BAD, episodes=run("", [0] * 3, 1, 7).episodes)], force=True
    ).pairs
    assert elsewhere.interval_over == "episodes"


def test_too_few_episodes_are_named() -> None:
    few = compare([run("a", [1, 1]), run("b", [0, 0])])
    assert few.pairs[0].verdict(0.05) == "too few to tell"
    assert few.notes == (
        "a and b: 4 paired episodes cannot reach p <= 0.05; the exact test needs at least 6",
    )
    alike = compare([run("a", [1] * 10), run("b", [1] * 9 + [0])])
    assert "only 2 of 20 paired episodes were solved by one policy alone" in alike.notes[0]
    apart = compare([run("a", [1], tasks=1), run("b", [0], tasks=1, seed=3)], force=True)
    assert "1 and 1 unpaired episodes cannot reach p <= 0.05; play more" in apart.notes[0]


def test_intervals_over_tasks_need_tasks() -> None:
    four, five = ([run("a", [1, 1, 1, 0], n), run("b", [0, 1, 0, 0], n)] for n in (4, 5))
    assert compare(four).pairs[0].interval_over == "episodes"
    assert compare(five).pairs[0].interval_over == "tasks"
    [sure] = compare([run("a", [1, 1], 5), run("b", [0, 0], 5)]).pairs
    assert sure.interval_over == "episodes", "resampling outcomes that are all alike knows no doubt"
    assert sure.interval[0] < sure.interval[1]


def test_names_that_are_alike_get_their_folders(tmp_path: Path) -> None:
    for name, result in (("one", GOOD), ("two", replace(BAD, policy="good"))):
        result.save(tmp_path / name)
    comparison = compare([tmp_path / "one", tmp_path / "two"])
    assert list(comparison.runs) == ["good (one)", "good (two)"]
    values = json.loads(comparison.save(tmp_path / "out").read_text())
    assert values["policies"]["good (two)"]["rate"] == 0.2
    assert values["pairs"][0]["verdict"] == "good (one) is better"
    assert values["folders"] == {f"good ({name})": str(tmp_path / name) for name in ("one", "two")}


def test_what_cannot_be_compared(tmp_path: Path) -> None:
    GOOD.save(tmp_path / "run")
    with pytest.raises(ComparisonError, match="needs at least two runs, got 1"):
        compare([GOOD])
    with pytest.raises(ComparisonError, match="run is given twice"):
        compare([tmp_path / "run", tmp_path / "run"])
    with pytest.raises(ResultsError, match=r"results.json: no such file"):
        compare([GOOD, tmp_path / "nothing"])
    with pytest.raises(ComparisonError, match="alpha: is 5"):
        compare([GOOD, BAD], alpha=5)


def test_stopped_runs_are_pointed_out() -> None:
    [note] = compare([replace(GOOD, stopped_by="a sequential comparison"), BAD]).notes
    assert note.startswith(
        "good: the number of episodes was decided by the outcomes (a sequential comparison)"
    )


def test_newcombe_equals_the_published_example() -> None:
    """Newcombe 1998 (17:873), table II, example (a): 56/70 against 48/80."""
    assert newcombe_interval(56, 70, 48, 80) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_newcombe_of_pairs_covers() -> None:
    """Coverage, exact over all tables of 12 pairs."""
    from math import factorial

    n, found = 12, []
    for both, only_a, only_b in (
        (0.3, 0.3, 0.1),
        (0.5, 0.2, 0.05),
        (0.1, 0.4, 0.4),
        (0.25, 0.25, 0.25),
    ):
        rates, covered = (both, only_a, only_b, 1 - both - only_a - only_b), 0.0
        for table in itertools.product(range(n + 1), repeat=4):
            if sum(table) == n:
                chance = float(factorial(n))
                for count, rate in zip(table, rates, strict=True):
                    chance *= rate**count / factorial(count)
                low, high = newcombe_paired_interval(*table)
                covered += chance * (low <= only_a - only_b <= high)
        found.append(covered)
    assert min(found) > 0.92
    assert 0.94 < sum(found) / len(found) < 0.98


def test_the_command_compares_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    GOOD.save("runs/good")
    replace(BAD, versions={**VERSIONS, "mujoco": "3.2.7"}).save("runs/bad")
    runner = CliRunner()
    refused = runner.invoke(app, ["compare", "runs/good", "runs/bad"])
    assert refused.exit_code == 2
    assert "version of mujoco: 3.3.0 (good), 3.2.7 (bad)" in refused.stderr
    assert not Path("runs/compare").exists()
    forced = runner.invoke(
        app, ["compare", "runs/good", "runs/bad", "--force", "--out", "runs/both"]
    )
    assert forced.exit_code == 0, forced.stderr
    assert "warning: version of mujoco" in forced.stdout
    assert json.loads(Path("runs/both/compare.json").read_text())["warnings"]
    assert "These runs differ in more than the policy." in Path("runs/both/report.html").read_text()
    lonely = runner.invoke(app, ["compare", "runs/good"])
    assert lonely.exit_code == 2
    assert "needs at least two runs, got 1" in lonely.stderr
