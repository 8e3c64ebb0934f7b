"""The benchmark of offline RL from pictures, made small: real data, trainings and rollouts."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from scripts.results import trainings
from vla.sim_eval.comparison.methods import compare_methods

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CONFIG = BENCHMARKS.parent / "configs" / "tabletop_offline.yaml"
ROWS = ("none", "iql")


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    # its files import each other by their plain names, as scripts do
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module("offline_rl_images")
    finally:
        sys.path.remove(str(BENCHMARKS))


def small_config(folder: Path) -> Path:
    values = yaml.safe_load(CONFIG.read_text())
    env = {"type": "tabletop", "tasks": ["reach"], "cameras": ["front"], "image_size": 32}
    values["collect"] |= {
        "env": env | {"horizon": 25},
        "out": str(folder / "data"),
        "episodes_per_task": 6,
        "noise": {"std": 0.0, "random_shares": [0.0, 1.0]},
        "behaviours": {"mistaken": 0.0},
        "workers": 1,
    }
    values["train"] |= {"steps": 2, "batch_size": 4}
    values["train"]["data"] |= {"path": str(folder / "data"), "cache": "ram"}
    values["train"]["policy"] |= {"width": 32, "depth": 1, "heads": 2, "key_dim": 16}
    values["eval"] |= {"env": env | {"horizon": 4}, "workers": 0}
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def run(benchmark: ModuleType, folder: Path, config: Path, *more: str) -> dict[str, Any]:
    argv = ["--config", str(config), "--rows", *ROWS, "--seeds", "0", "1", "--steps", "2"]
    argv += ["--starts", "2", "--out", str(folder / "runs"), "--result", str(folder / "r.json")]
    result: dict[str, Any] = benchmark.main([*argv, *more])
    assert json.loads((folder / "r.json").read_text()) == json.loads(json.dumps(result))
    return result


def test_rows_start_from_one_clone_and_finished_ones_are_not_repeated(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(tmp_path)
    first = run(benchmark, tmp_path, config, "--collect")
    assert set(first["rows"]) == set(ROWS)
    for row in first["rows"].values():
        assert row["seeds"] == [0, 1]
        assert row["starts"] == 2
        assert len(row["successes"]) == len(row["minutes"]) == 2
    assert first["rows"]["iql"]["against_control"]["row"] == "none"
    assert first["rows"]["iql"]["against_control"]["seeds"] == [0, 1]
    runs = tmp_path / "runs"
    for name in ROWS:
        stored = yaml.safe_load((runs / name / "seed1" / "config.yaml").read_text())
        assert stored["init_from"] == str(runs / "clone" / "seed1" / "policy")
        assert (stored["seed"], stored["data"]["solved_share"]) == (1, 0.85)
    monkeypatch.setattr(trainings, "read", lambda name: first)
    shown = trainings.block("offline_rl_small")
    assert "| IQL | 2 | " in shown
    assert "| no values, the same windows | 2 | " in shown
    # what the evaluations say of their trainings: of one method, from the clones of both
    groups = {name: [runs / name / f"seed{seed}" / "eval" for seed in (0, 1)] for name in ROWS}
    [pair] = compare_methods(groups).pairs
    assert pair.found.paired
    policies = sorted(runs.rglob("model.safetensors"))
    written = [path.stat().st_mtime_ns for path in policies]
    played = [path.stat().st_mtime_ns for path in sorted(runs.rglob("episodes.parquet"))]
    again = run(benchmark, tmp_path, config)
    assert again["rows"] == first["rows"]
    assert [path.stat().st_mtime_ns for path in policies] == written
    assert [p.stat().st_mtime_ns for p in sorted(runs.rglob("episodes.parquet"))] == played


def test_all_rows_share_the_sampler_or_say_so(benchmark: ModuleType, tmp_path: Path) -> None:
    setup = benchmark.setup_of(benchmark.arguments_of(["--out", str(tmp_path)]))
    own = {"out", "init_from", "objective", "policy", "transfer", "data"}
    shared: dict[str, Any] = {}
    for name, row in benchmark.readable_rows(setup, None).items():
        values = setup.row_config(name, row, 0).model_dump(mode="json")
        data = values["data"]
        if not row.differs:
            assert values["policy"] == (shared.get("policy") or values["policy"]), name
            shared["policy"] = values["policy"]
            assert data["solved_share"] == 0.85, name
        assert data["episode_balance"], name
        rest = {key: value for key, value in values.items() if key not in own}
        assert rest == shared.setdefault("rest", rest), name
