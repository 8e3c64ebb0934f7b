"""Runs know their data again by what they are, say what is odd in them, and keep it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import training_toy
from typer.testing import CliRunner

from vla.cli import app
from vla.config import ConfigError, load_config
from vla.data import EpisodeDataset, KeyMap
from vla.data.errors import DataWarning
from vla.training import TrainConfig, train
from vla.training.offline_evaluation.diagnostics import diagnose
from vla.training.offline_evaluation.fitted_q_evaluation import FQEConfig, fqe

pytestmark = pytest.mark.filterwarnings("ignore::vla.common.errors.DataWarning")
ODD = "does not say its control rate"


def write(path: Path, *, seed: int = 0, episodes: int = 4, rewarded: bool = False) -> Path:
    """A dataset without names, control rate or instructions: its reader warns of them."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for episode in range(episodes):
        arrays[f"{episode}/observations"] = rng.normal(size=(12, 2))
        arrays[f"{episode}/actions"] = np.clip(rng.normal(size=(12, 2)), -1, 1)
        if rewarded:
            arrays[f"{episode}/rewards"] = rng.random(12)
    path.parent.mkdir(exist_ok=True)
    np.savez(path, **arrays)
    return path


def config(out: Path, data: Any, **changes: Any) -> TrainConfig:
    data = data if isinstance(data, dict) else {"path": str(data)}
    values = {
        "out": str(out),
        "data": {"validation_fraction": 0, **data},
        "policy": {"type": "mlp", "hidden": 8},
        "steps": 2,
        "batch_size": 8,
        "ema_decay": None,
        "validate_every": None,
        "save_every": 1,
        "optim": {"warmup_steps": 0},
    }
    return load_config(TrainConfig, values | changes)


def interrupted(out: Path) -> Path:
    """The run as a kill after its first checkpoint leaves it."""
    shutil.rmtree(out / "policy")
    shutil.rmtree(out / "checkpoints/step-000002")
    return out


def moved(path: Path) -> Path:
    place = path.parent / "elsewhere"
    place.mkdir(exist_ok=True)
    return path.rename(place / path.name)


def test_a_run_goes_on_after_its_data_were_moved(tmp_path: Path) -> None:
    data = write(tmp_path / "d.npz")
    train(config(tmp_path / "run", data))
    out = interrupted(tmp_path / "run")
    new = moved(data)
    result = train(config(out, new), resume=True)
    assert result.step == 2
    assert str(new) in (out / "config.yaml").read_text()


def test_other_data_at_the_new_place_are_refused_with_what_differs(tmp_path: Path) -> None:
    data = write(tmp_path / "d.npz")
    train(config(tmp_path / "run", data))
    more = write(tmp_path / "more/d.npz", episodes=5)
    with pytest.raises(
        ConfigError, match=r"^data\.path: .*more.* 5 episodes, it had 4; .*another out"
    ):
        train(config(tmp_path / "run", more), resume=True)
    other = write(tmp_path / "other/d.npz")
    with np.load(other) as arrays:
        changed = dict(arrays)
    changed["0/actions"][3, 1] += 1e-3
    np.savez(other, **changed)
    with pytest.raises(ConfigError, match=r"^data\.path: .*other numbers as actions \(a mean is"):
        train(config(tmp_path / "run", other), resume=True)
    # in place, too: the losses would be those of no run at all
    write(data, seed=1)
    with pytest.raises(ConfigError, match=r"^data\.path: .* holds other data"):
        train(config(tmp_path / "run", data), resume=True)


def test_other_images_and_other_keys_are_other_data(tmp_path: Path) -> None:
    data = training_toy.write_dataset(tmp_path / "d", episodes=3, length=4)
    toy = {"policy": {"type": "toy_linear"}}
    train(config(tmp_path / "run", data, **toy))
    turned = {"path": str(data), "keys": {"cameras": {}}}
    with pytest.raises(ConfigError, match=r"^data\.keys: is \{'cameras': \{\}\}, the run .* None"):
        train(config(tmp_path / "run", turned, **toy), resume=True)
    record = json.loads((tmp_path / "run/data.json").read_text())
    record["data"]["images"]["front"][0][5] += 30
    (tmp_path / "run/data.json").write_text(json.dumps(record))
    with pytest.raises(ConfigError, match=r"other images of camera 'front'"):
        train(config(tmp_path / "run", data, **toy), resume=True)


def test_replayed_data_and_the_start_may_be_moved(tmp_path: Path) -> None:
    data, replayed = write(tmp_path / "a/d.npz"), write(tmp_path / "b/d.npz", seed=1)
    both = {"path": str(data), "replay": [{"path": str(data), "weight": 0.25}]}
    train(config(tmp_path / "first", data))
    start = tmp_path / "first/policy"
    changes: dict[str, Any] = {"init_from": str(start)}
    train(config(tmp_path / "run", both, **changes))
    out = interrupted(tmp_path / "run")
    new, new_start = moved(data), start.rename(tmp_path / "start")
    there = {"path": str(new), "replay": [{"path": str(new), "weight": 0.25}]}
    wrong = {"path": str(new), "replay": [{"path": str(replayed), "weight": 0.25}]}
    with pytest.raises(ConfigError, match=r"^data\.replay\.0\.path: .* holds other data"):
        train(config(out, wrong, init_from=str(new_start)), resume=True)
    with pytest.raises(ConfigError, match=r"^init_from: .*nowhere: no policy is here; write"):
        train(config(out, there, init_from=str(tmp_path / "nowhere")), resume=True)
    assert train(config(out, there, init_from=str(new_start)), resume=True).step == 2


def test_several_robots_data_may_be_moved(tmp_path: Path) -> None:
    arm, hand = write(tmp_path / "a/d.npz"), write(tmp_path / "b/d.npz", seed=1)
    robots = {"arm": {"path": str(arm)}, "hand": {"path": str(hand)}}
    train(config(tmp_path / "run", {"multi_robot": robots}))
    out = interrupted(tmp_path / "run")
    swapped = {"arm": {"path": str(hand)}, "hand": {"path": str(hand)}}
    with pytest.raises(ConfigError, match=r"^data\.multi_robot\.arm\.path: .* holds other data"):
        train(config(out, {"multi_robot": swapped}), resume=True)
    robots["hand"]["path"] = str(moved(hand))
    assert train(config(out, {"multi_robot": robots}), resume=True).step == 2


def test_a_run_of_an_earlier_version_says_how_to_go_on(tmp_path: Path) -> None:
    data = write(tmp_path / "d.npz")
    train(config(tmp_path / "run", data))
    (tmp_path / "run/data.json").unlink()
    new = moved(data)
    with pytest.raises(ConfigError, match=rf"cannot be compared: .*`ln -s {new} {data}`"):
        train(config(tmp_path / "run", new), resume=True)


def test_warnings_are_issued_once_and_kept(tmp_path: Path) -> None:
    data = write(tmp_path / "d.npz")
    both = {"path": str(data), "replay": [{"path": str(write(tmp_path / "e.npz")), "weight": 0.25}]}
    with pytest.warns(DataWarning) as caught:
        train(config(tmp_path / "run", both))
    texts = [str(warning.message) for warning in caught if warning.category is DataWarning]
    assert sum(text.startswith(f"d.npz: {ODD}") for text in texts) == 1
    assert sum(text.startswith(f"e.npz: {ODD}") for text in texts) == 1
    record = json.loads((tmp_path / "run/data.json").read_text())
    for place in ("data", "data.replay.0"):
        assert any(text.startswith(ODD) for text in record[place]["warnings"])
    card = (tmp_path / "run/policy/README.md").read_text()
    assert "## Data warnings" in card
    assert f"- d.npz: {ODD}" in card


def test_what_comes_up_while_images_are_read_is_issued_too(tmp_path: Path) -> None:
    dataset = EpisodeDataset(write(tmp_path / "d.npz"))
    with pytest.warns(DataWarning, match=ODD):
        dataset.issue_warnings()
    dataset.reader.warnings.append("episode 3 has no last frame")
    with pytest.warns(DataWarning) as caught:
        dataset.issue_warnings()
    assert [str(warning.message) for warning in caught] == ["d.npz: episode 3 has no last frame"]


def test_the_command_prints_them_on_standard_error(tmp_path: Path) -> None:
    settings = config(tmp_path / "run", write(tmp_path / "d.npz"))
    file = tmp_path / "train.yaml"
    file.write_text(json.dumps(settings.model_dump(mode="json")))
    result = CliRunner().invoke(app, ["train", str(file), "data.keys.control_hz=5"])
    assert result.exit_code == 0, result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("warning: d.npz: ")]
    assert len(lines) == len(set(lines)) >= 1
    assert ODD not in result.stderr, "the key says it"
    assert "warning" not in result.stdout


def test_offline_evaluation_says_and_keeps_them(tmp_path: Path) -> None:
    data = write(tmp_path / "d.npz", rewarded=True)
    values = {"path": str(data), "rewards": {"kind": "env"}}
    train(config(tmp_path / "run", values))
    policies = [str(tmp_path / "run/policy")]
    settings = {"steps": 2, "warmup_steps": 0, "batch_size": 8, "out": str(tmp_path / "fqe")}
    with pytest.warns(DataWarning, match=ODD):
        fqe(load_config(FQEConfig, settings | {"policies": policies, "data": values}))
    found = json.loads((tmp_path / "fqe/fqe.json").read_text())
    assert any(text.startswith(ODD) for text in found["warnings"])
    new = moved(data)
    with pytest.warns(DataWarning, match=ODD):
        diagnosis = diagnose(tmp_path / "run", data=new)
    assert any(text.startswith(ODD) for text in diagnosis.warnings)
    other = write(tmp_path / "f.npz")
    with pytest.raises(ConfigError, match="in the dataset state_names are"):
        diagnose(tmp_path / "run", data=other, keys=KeyMap(state=[]))


def test_a_start_of_a_robot_that_nobody_named_is_doubted(tmp_path: Path) -> None:
    data = write(tmp_path / "d.npz")
    train(config(tmp_path / "first", data))
    start = str(tmp_path / "first/policy")
    with pytest.warns(DataWarning, match=r"'action_0', which was made up .* \(transfer=\{\}"):
        train(config(tmp_path / "second", data, init_from=start))
    transferred = {"init_from": start, "transfer": {"same_robot": True}}
    result = train(config(tmp_path / "third", data, **transferred))
    record = json.loads((tmp_path / "third/transfer.json").read_text())
    assert any("head" in name for name in record["tensors"]["kept"])
    assert result.step == 2
