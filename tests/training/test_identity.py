"""What a policy says of its training: the method without its seed, and where it began."""

from __future__ import annotations

from pathlib import Path

from vla.models import load_policy
from vla.training import TrainConfig, train
from vla.training.identity import training_card

from training_toy import ToyConfig, write_dataset  # isort: skip


def config(**changes: object) -> TrainConfig:
    values = {"out": "runs/a", "data": {"path": "data/x"}, "policy": ToyConfig(), "steps": 10}
    return TrainConfig(**(values | changes))


def card(**changes: object) -> dict[str, object]:
    return training_card(config(**changes), {}, "x")


def test_a_method_is_all_but_seed_and_place() -> None:
    first = card()
    assert first["objective"] == "bc"
    assert first["origin"] == ""
    other_seed = card(seed=3, out="runs/b", log_every=7)
    assert other_seed["seed"] == 3
    assert other_seed["method"] == first["method"]
    assert other_seed["training"] != first["training"]
    assert card(steps=11)["method"] != first["method"]
    moved = training_card(config(data={"path": "elsewhere/x", "cache": "disk"}), {}, "x")
    assert moved == first


def test_continued_trainings_know_their_origin() -> None:
    clones = [card(seed=seed) for seed in range(2)]
    tuned = [training_card(config(seed=s, init_from=f"runs/{s}"), clones[s], "x") for s in range(2)]
    assert [found["origin"] for found in tuned] == [clone["training"] for clone in clones]
    assert tuned[0]["method"] == tuned[1]["method"] != clones[0]["method"]
    unknown = training_card(config(init_from="runs/old"), {}, "x")
    assert unknown["origin"] == "unknown"


def test_training_writes_it_and_a_resumed_run_keeps_it(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", episodes=4)
    shared = {"data": {"path": str(data), "validation_fraction": 0}, "validate_every": None}
    more = {"batch_size": 4, "save_every": 1}
    start = config(out=str(tmp_path / "start"), steps=2, **shared, **more)
    train(start)
    begun = load_policy(tmp_path / "start" / "policy").card["training"]
    assert begun == training_card(start, {}, "data")
    init = str(tmp_path / "start" / "policy")
    tuned = config(out=str(tmp_path / "tuned"), steps=2, seed=1, init_from=init, **shared, **more)
    train(tuned)
    train(tuned, resume=True)
    found = load_policy(tmp_path / "tuned" / "policy").card["training"]
    assert found == training_card(tuned, begun, "data")
