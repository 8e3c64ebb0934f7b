"""Recordings that people really have: times in other units, episodes without steps, rates and cameras that
differ, texts where numbers were expected. Commands of messages are run as they stand."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_lerobot import vector, write_v2

from vla.data import DataError, EpisodeDataset, KeyMap

h5py = pytest.importorskip("h5py", reason="needs the extra `hdf5`")

L = 12
LEROBOT = {"observation.state": vector(2), "action": vector(2)}


def episode(number: int, steps: int = L, **more: Any) -> dict[str, Any]:
    generator = np.random.default_rng([number, steps])
    numbers = {
        "action": generator.normal(size=(steps, 2)),
        "state": generator.normal(size=(steps, 3)),
    }
    return {**numbers, "task": "go", **more}


def npz_folder(root: Path, *episodes: dict[str, Any]) -> Path:
    root.mkdir()
    for number, arrays in enumerate(episodes):
        np.savez(root / f"ep{number}.npz", **arrays)
    return root


def npz_archive(root: Path, *episodes: dict[str, Any]) -> Path:
    arrays = {f"{n}/{key}": value for n, own in enumerate(episodes) for key, value in own.items()}
    np.savez(
        root.with_suffix(".npz"), **{k: v for k, v in arrays.items() if not k.endswith("task")}
    )
    return root.with_suffix(".npz")


def robomimic(root: Path, *episodes: dict[str, Any]) -> Path:
    with h5py.File(root.with_suffix(".hdf5"), "w") as file:
        for number, own in enumerate(episodes):
            file[f"data/demo_{number}/actions"] = own["action"]
            file[f"data/demo_{number}/obs/joints"] = own["state"]
    return root.with_suffix(".hdf5")


def csv_folder(root: Path, *episodes: dict[str, Any]) -> Path:
    for number, own in enumerate(episodes):
        (root / f"e{number}").mkdir(parents=True)
        times = own.get("timestamp", np.arange(len(own["action"])) / 20)
        rows = zip(times, own["state"][:, 0], own["action"][:, 0], strict=True)
        lines = ["timestamp,state.x,action.dx", *(f"{t},{x:.4f},{a:.4f}" for t, x, a in rows)]
        (root / f"e{number}/steps.csv").write_text("\n".join(lines) + "\n")
    return root


def warned(dataset: EpisodeDataset, words: str) -> str:
    (found,) = [text for text in dataset.warnings if words in text]
    return found


def commands(message: str) -> list[str]:
    """What a message gives to be typed."""
    return [text for text in re.findall(r"`([^`]+)`", message) if re.match(r"(mv|python) ", text)]


def run(command: str) -> None:
    words = shlex.split(command)
    done = subprocess.run([sys.executable if words[0] == "python" else words[0], *words[1:]])
    assert done.returncode == 0


# --- rates ----------------------------------------------------------------------------------------

# times of the steps -> rate, and what is said
TIMES = {
    "seconds": (np.arange(L) / 25, 25.0, None),
    "milliseconds": (np.arange(L) * 40, 25.0, "taken for milliseconds (25 Hz)"),
    "microseconds": (5 + np.arange(L) * 2000, 500.0, "taken for microseconds (500 Hz)"),
    "clock in milliseconds": (17e11 + np.arange(L) * 1000, 1.0, "taken for milliseconds (1 Hz)"),
    "clock in nanoseconds": (17 * 10**17 + np.arange(L) * 5 * 10**7, 20.0, "nanoseconds (20 Hz)"),
    "slow, in seconds": (np.arange(L) * 4.0, 0.25, None),
}


@pytest.mark.parametrize("write", [npz_folder, csv_folder])
@pytest.mark.parametrize("times", TIMES)
def test_times_give_the_rate_in_any_unit(tmp_path: Path, write: Any, times: str) -> None:
    values, hz, said = TIMES[times]
    root = write(tmp_path / "d", *(episode(n, timestamp=values) for n in range(2)))
    dataset = EpisodeDataset(root)
    assert dataset.spec.control_hz == pytest.approx(hz, rel=1e-3)
    rises = [text for text in dataset.warnings if "rises by" in text]
    assert (said is None and not rises) or (said is not None and said in rises[0])
    assert not any("not read" in text for text in dataset.warnings)


def test_times_that_tell_no_rate(tmp_path: Path) -> None:
    rows = npz_folder(tmp_path / "rows", *(episode(n, time=np.arange(L)) for n in range(2)))
    assert "20 Hz is assumed" in warned(EpisodeDataset(rows), "control rate")
    twice = np.repeat(np.arange(L // 2) / 10, 2)
    repeated = csv_folder(tmp_path / "d", episode(0, timestamp=twice))
    with pytest.raises(DataError, match=r"step 1 is 0.0, after 0.0; .*`control_hz=5`"):
        EpisodeDataset(repeated)
    dataset = EpisodeDataset(repeated, keys=KeyMap(control_hz=5))  # what the message says
    assert dataset.spec.control_hz == 5
    warned(dataset, "timestamps do not rise")


def test_dates_are_times(tmp_path: Path) -> None:
    times = [
        f"2024-05-01 12:00:{59 + t // 10 - 60 * ((59 + t // 10) // 60):02d}.{t % 10}00"
        for t in range(9)
    ]
    root = csv_folder(tmp_path / "d", episode(0, 9, timestamp=times))
    assert EpisodeDataset(root).spec.control_hz == 10


@pytest.mark.parametrize("rates", [(10, 10, 30), ("10 Hz", "10", 30.0)])
def test_rates_that_differ_between_episodes(tmp_path: Path, rates: tuple[Any, ...]) -> None:
    root = npz_folder(tmp_path / "d", *(episode(n) for n in range(3)))
    for number, rate in enumerate(rates):
        (root / f"ep{number}.json").write_text(json.dumps({"fps": rate}))
    dataset = EpisodeDataset(root)
    assert dataset.spec.control_hz == 10
    text = warned(dataset, "differs between episodes: 10 Hz (2 episodes), 30 Hz (1 episodes)")
    assert f"`vla data filter {root} PART --episodes 2 control_hz=30`" in text
    assert not EpisodeDataset(root, keys=KeyMap(control_hz=30)).warnings


def test_rates_that_times_show_to_differ(tmp_path: Path) -> None:
    own = [episode(n, timestamp=np.arange(L) / hz) for n, hz in enumerate((10, 10, 30))]
    for root in (npz_folder(tmp_path / "a", *own), csv_folder(tmp_path / "b", *own)):
        warned(EpisodeDataset(root), "10 Hz (2 episodes), 30 Hz (1 episodes); 10 Hz stands for all")


@pytest.mark.parametrize("fps", [np.array(50), np.array([50.0])])
def test_a_rate_among_the_arrays(tmp_path: Path, fps: np.ndarray) -> None:
    dataset = EpisodeDataset(npz_folder(tmp_path / "d", episode(0, fps=fps), episode(1, fps=fps)))
    assert (dataset.spec.control_hz, dataset.warnings) == (50, [])
    times = np.arange(L) / 10
    other = npz_folder(tmp_path / "e", episode(0, fps=fps, timestamp=times))
    assert "`control_hz=10`" in warned(EpisodeDataset(other), "the times of its steps 10 Hz")


# --- episodes that cannot be read -----------------------------------------------------------------


@pytest.mark.parametrize("write", [npz_folder, npz_archive, robomimic, csv_folder])
def test_episodes_without_steps_are_left_out(tmp_path: Path, write: Any) -> None:
    root = write(tmp_path / "d", episode(0), episode(1, 0), episode(2))
    dataset = EpisodeDataset(root)
    assert dataset.episodes["length"].tolist() == [L, L]
    assert "1" in warned(dataset, "1 of 3 episodes have no steps and are left out: ")
    with pytest.raises(DataError, match="none of its 2 episodes has a step"):
        EpisodeDataset(write(tmp_path / "e", episode(0, 0), episode(1, 0)))


def test_episodes_of_lerobot_without_steps(tmp_path: Path) -> None:
    dataset = EpisodeDataset(write_v2(tmp_path / "d", LEROBOT, lengths=(6, 0, 7)))
    assert dataset.episode_numbers.tolist() == [0, 2]
    assert warned(dataset, "no steps").endswith("are left out: 1")
    with pytest.raises(DataError, match="none of its 1 episodes has a step"):
        EpisodeDataset(write_v2(tmp_path / "e", LEROBOT, lengths=(0,)))


@pytest.mark.parametrize("write", [npz_folder, npz_archive, robomimic])
def test_the_command_leaves_out_what_cannot_be_read(tmp_path: Path, write: Any) -> None:
    odd = [{**episode(n), "state": np.ones((5, 3))} for n in (1, 3)]
    root = write(tmp_path / "my data", episode(0), odd[0], episode(2), odd[1])
    with pytest.raises(DataError, match=r"12 actions and 5 of .* 1 further of 4 episodes") as error:
        EpisodeDataset(root)
    for command in commands(str(error.value)):
        run(command)
    rest = root.with_stem(root.stem + "_rest") if write is npz_archive else root
    assert EpisodeDataset(rest).num_episodes == 2


def test_the_command_leaves_out_half_a_file(tmp_path: Path) -> None:
    root = npz_folder(tmp_path / "d", *(episode(n) for n in range(3)))
    whole = (root / "ep1.npz").read_bytes()
    (root / "ep1.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"is damaged or no \.npz archive") as error:
        EpisodeDataset(root)
    run(commands(str(error.value))[0])
    assert EpisodeDataset(root).num_episodes == 2


def test_arrays_that_the_first_episode_lacks(tmp_path: Path) -> None:
    image = np.zeros((L, 16, 16, 3), np.uint8)
    root = npz_folder(
        tmp_path / "d",
        episode(0),
        *(episode(n, image=image, rewards=np.ones(L)) for n in (1, 2)),
    )
    dataset = EpisodeDataset(root)
    text = warned(dataset, "image (in 2 episodes), rewards (in 2 episodes)")
    run(commands(text)[0])
    assert list(EpisodeDataset(root).spec.cameras) == ["image"]


# --- texts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("says", "success"),
    [("true", 1), ("False", 0), ("yes", 1), ("failure", 0), ("1", 1), (1, 1), (False, 0)],
)
def test_success_in_words(tmp_path: Path, says: Any, success: int) -> None:
    root = npz_folder(tmp_path / "d", episode(0), episode(1))
    (root / "ep0.json").write_text(json.dumps({"success": says, "fps": 10}))
    dataset = EpisodeDataset(root)
    assert "success" in dataset.recorded
    assert dataset.episodes["success"].tolist() == [bool(success), False]


def test_success_that_says_neither(tmp_path: Path) -> None:
    root = npz_folder(tmp_path / "d", episode(0), episode(1))
    (root / "ep0.json").write_text('{"success": "partly", "fps": 10}')
    dataset = EpisodeDataset(root)
    assert "success" not in dataset.recorded
    assert "'partly' of ep0.npz" in warned(dataset, "neither yes nor no")


def test_texts_of_other_names_are_offered(tmp_path: Path) -> None:
    own = episode(0, fps=10, language_raw="open the drawer")
    del own["task"]
    root = npz_folder(tmp_path / "d", own)
    text = warned(EpisodeDataset(root), "texts that are not read")
    assert text.endswith("instruction=language_raw")
    dataset = EpisodeDataset(root, keys=KeyMap(instruction="language_raw"))
    assert (dataset.instructions, dataset.warnings) == (["open the drawer"], [])


@pytest.mark.parametrize("empty", ["", None, "  "])
def test_empty_tasks_of_lerobot(tmp_path: Path, empty: str | None) -> None:
    root = write_v2(tmp_path / "d", LEROBOT)
    (root / "meta/tasks.jsonl").write_text(json.dumps({"task_index": 0, "task": empty}) + "\n")
    dataset = EpisodeDataset(root)
    assert dataset.instructions == ["d"]
    warned(dataset, "3 of 3 episodes have no instruction: 'd' stands for it")
    given = EpisodeDataset(root, keys=KeyMap(instruction="task_index", task="go"))
    assert (given.instructions, given.warnings) == (["go"], [])


def test_several_wordings_of_a_whole_episode(tmp_path: Path) -> None:
    root = robomimic(tmp_path / "d", episode(0), episode(1))
    with h5py.File(root, "a") as file:
        for demo in file["data"].values():
            demo.attrs["language_instruction"] = ["pick it up", "nimm es"]
    dataset = EpisodeDataset(root)
    assert dataset.instructions == ["pick it up"]
    warned(dataset, "2 of 2 episodes give several instructions and not one for each step")


# --- columns and pictures -------------------------------------------------------------------------


def test_the_row_numbers_of_pandas(tmp_path: Path) -> None:
    root = csv_folder(tmp_path / "d", episode(0))
    file = root / "e0/steps.csv"
    header, *lines = file.read_text().splitlines()
    numbered = [f",{header}", *(f"{row},{line}" for row, line in enumerate(lines))]
    expected = EpisodeDataset(root).columns.state
    file.write_text("\n".join(numbered))
    np.testing.assert_array_equal(EpisodeDataset(root).columns.state, expected)
    file.write_text(
        "\n".join([f",{header}", *(f"{row / 2},{line}" for row, line in enumerate(lines))])
    )
    with pytest.raises(DataError, match="column 1 has no name"):
        EpisodeDataset(root)


def test_columns_of_other_names_are_offered(tmp_path: Path) -> None:
    root = csv_folder(tmp_path / "d", episode(0))
    file = root / "e0/steps.csv"
    file.write_text(file.read_text().replace("state.x", "joint").replace("action.dx", "cmd"))
    with pytest.raises(DataError, match=r"no column is named action.NAME; .* `action=\[cmd\]`"):
        EpisodeDataset(root)
    text = warned(EpisodeDataset(root, keys=KeyMap(action=["cmd"])), "no state is read")
    assert "state=[joint]" in text
    named = EpisodeDataset(root, keys=KeyMap(action=["cmd"], state=["joint"], task="go"))
    assert (named.spec.state_names, named.warnings) == (("joint",), [])


def test_commands_that_are_not_read_are_no_state(tmp_path: Path) -> None:
    more = {"base_action": np.ones((L, 2)), "qvel": np.ones((L, 3)), "fps": 10}
    text = warned(EpisodeDataset(npz_folder(tmp_path / "d", episode(0, **more))), "not read")
    assert text.endswith("state=[state,qvel] and action=[action,base_action]")


def test_opaque_colours_and_grey(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (L, 16, 24, 4), np.uint8)
    image[..., 3] = 255
    grey = generator.integers(0, 256, (L, 1, 16, 24), np.uint8)
    root = npz_folder(tmp_path / "d", episode(0, fps=10, front=image, tactile=grey))
    dataset = EpisodeDataset(root)
    assert list(dataset.spec.cameras) == ["front"]
    warned(dataset, "its fourth channel, which is 255, is left out")
    text = warned(dataset, "grey images")
    assert "cameras.front=front cameras.tactile=tactile reads it" in text
    keys = KeyMap(cameras={"front": "front", "tactile": "tactile"})
    both = EpisodeDataset(root, keys=keys).episode(0)
    np.testing.assert_array_equal(both.frames("front"), image[..., :3])
    np.testing.assert_array_equal(
        both.frames("tactile"), np.repeat(grey[:, 0, ..., None], 3, axis=3)
    )


# array -> what is said of it
NO_NUMBERS = {
    "complex": ({"state": np.ones((L, 3)) * 1j}, "ep0.npz/state is complex128 (12, 3), expected"),
    "fields": ({"state": np.zeros(L, [("x", "f4")])}, "expected plain numbers: it is not read"),
    "transposed": ({"state": np.ones((3, L))}, "no row for each of 12 actions: state (3, 12)"),
    "blue first": (
        {"top_bgr": np.zeros((L, 16, 16, 3), np.uint8)},
        "give `colours.top_bgr=bgr`, else `colours.top_bgr=rgb`",
    ),
}


@pytest.mark.parametrize("name", NO_NUMBERS)
def test_what_is_not_read_or_may_be_read_wrongly(tmp_path: Path, name: str) -> None:
    arrays, said = NO_NUMBERS[name]
    warned(EpisodeDataset(npz_folder(tmp_path / "d", episode(0, **arrays))), said)


def test_actions_that_are_no_numbers(tmp_path: Path) -> None:
    values = episode(0)["action"].astype(object)
    root = npz_folder(tmp_path / "d", episode(0, action=values))
    with pytest.raises(DataError, match=r"action is object \(12, 2\), expected numbers"):
        EpisodeDataset(root)


def test_dates_of_numpy(tmp_path: Path) -> None:
    times = np.datetime64("2024-05-01T12:00") + np.arange(L) * np.timedelta64(40, "ms")
    dataset = EpisodeDataset(npz_folder(tmp_path / "d", episode(0, timestamp=times)))
    assert dataset.spec.control_hz == pytest.approx(25)


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_episodes_stacked_in_arrays_are_no_chunks(tmp_path: Path, suffix: str) -> None:
    generator = np.random.default_rng(0)
    actions, seen = generator.normal(size=(4, 20, 2)), generator.normal(size=(4, 20, 3))
    path = tmp_path / f"all{suffix}"
    if suffix == ".npz":
        np.savez(path, actions=actions, observations=seen)
    else:
        with h5py.File(path, "w") as file:
            file["actions"], file["observations"] = actions, seen
    with pytest.raises(DataError, match="look like 4 episodes") as error:
        EpisodeDataset(path)
    run(commands(str(error.value))[0])
    dataset = EpisodeDataset(tmp_path / "all_episodes.npz")
    assert dataset.episodes["length"].tolist() == [20] * 4
    np.testing.assert_allclose(dataset.columns.actions, actions.reshape(80, 2), rtol=1e-6)
    keys = KeyMap(action=["actions"], state=["observations"])  # if they are chunks after all
    assert EpisodeDataset(path, keys=keys).spec.action_dim == 40
