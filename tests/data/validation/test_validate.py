"""Every check finds what it is for, one damaged file hides no other, and repairs lose nothing."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fuzz_sets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from vla.cli.app import app
from vla.common import registry
from vla.common.registry import register
from vla.common.renamed import RenamedWarning
from vla.data import DataError, DatasetWriter, Episode, EpisodeDataset, FrameCache, KeyMap
from vla.data.storage.checksums import is_whole, write_checksummed_json
from vla.data.storage.row_groups import write_row_groups
from vla.data.validation.check import check
from vla.data.validation.examined import Examined
from vla.data.validation.report import Finding, Report, checks, validate

INFO, STATS, TASKS = "meta/info.json", "meta/stats.json", "meta/tasks.parquet"
DATA = "data/chunk-000/file-000.parquet"
TABLE = "meta/episodes/chunk-000/file-000.parquet"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """made(name of a builder) -> a clean dataset, written once."""
    base, known = tmp_path_factory.mktemp("sets"), {}

    def make(name: str) -> Path:
        if name not in known:
            known[name] = fuzz_sets.BUILDERS[name][0](base / name.replace(" ", "_"))
        return known[name]

    return make


@pytest.fixture
def copied(made: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """copied(name) -> a copy to damage."""

    def copy(name: str) -> Path:
        source, target = made(name), tmp_path / "copy" / made(name).name
        target.parent.mkdir(exist_ok=True)
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
        return target

    return copy


def first_finding(report: Report, check: str, severity: str = "warning") -> Finding:
    """The first finding of a check."""
    found = [f for f in report.findings if f.check == check]
    assert found, [(f.check, f.message) for f in report.findings]
    assert found[0].severity == severity
    return found[0]


def edit(path: Path, **values: Any) -> None:
    """Changes keys of a JSON file as its owner would: with a checksum if it had one."""
    new = json.loads(path.read_text()) | values
    if "checksum" in new:
        write_checksummed_json(path, new)
    else:
        path.write_text(json.dumps(new))


def edit_table(path: Path, change: Callable[[dict[str, list[Any]]], None]) -> None:
    table = pq.read_table(path)
    columns = table.to_pydict()
    change(columns)
    write_row_groups(path, [pa.table(columns, schema=table.schema.remove_metadata())])


def errors(report: Report) -> list[str]:
    return [f"{f.check}: {f.message}" for f in report.of("error")]


# --- clean datasets -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", fuzz_sets.BUILDERS)
def test_clean_datasets_have_no_error(made, name):
    report = validate(made(name))
    assert report.ok, errors(report)
    assert {f.check for f in report.of("warning")} <= {"control_rate", "instructions"}
    if name.startswith(("native", "LeRobot")):
        assert report.findings == ()
    assert "images" in report.ran


def test_every_check_says_what_it_looks_at():
    for name, known in checks().items():
        assert (known.name, bool(known.looks_at)) == (name, True)


def test_checks_run_in_the_order_of_files_and_lines():
    # the reader's warnings grow while images are read, so their check comes after that of images
    names = list(checks())
    assert names[:3] == ["caches", "links", "leftovers"]
    assert names.index("images") < names.index("reader") < names.index("statistics")


@pytest.fixture
def foreign_check() -> Iterator[str]:
    """A check that another package registers."""

    @register("checks", "of_a_plugin")
    @check("the name of the folder", formats=("lerobot",))
    def of_a_plugin(examined: Examined) -> Iterator[Finding]:
        """The folder has a name."""
        yield Finding("of_a_plugin", "note", "", examined.root.name)

    yield "of_a_plugin"
    del registry._registry["checks"]["of_a_plugin"]


def test_a_check_of_another_package_runs_last(made, foreign_check):
    report = validate(made("native, images"))
    assert report.ran[-1] == foreign_check
    assert [f.message for f in report.findings] == [made("native, images").name]
    assert foreign_check not in validate(made("NumPy archive")).ran
    found = {entry.name: entry for entry in registry.entries("checks")}[foreign_check]
    assert (found.module, found.summary) == (__name__, "The folder has a name.")


def test_the_command_lists_checks(foreign_check):
    result = CliRunner().invoke(app, ["list", "checks"])
    assert result.exit_code == 0
    for name in checks():
        assert name in result.output
    assert "The folder has a name." in result.output


def test_a_check_in_the_former_spelling_still_registers_itself(made):
    def of_a_plugin(examined: Examined) -> Iterator[Finding]:
        """Finds nothing."""
        yield from ()

    with pytest.warns(RenamedWarning, match="looks_at"):
        assert check("in_the_former_way", "nothing", deep=True)(of_a_plugin) is of_a_plugin
    try:
        made_check = checks()["in_the_former_way"]
        assert (made_check.name, made_check.looks_at) == ("in_the_former_way", "nothing")
        assert "in_the_former_way" in validate(made("native, images")).ran
    finally:
        del registry._registry["checks"]["in_the_former_way"]


def test_fast_decodes_nothing(made, monkeypatch):
    import vla.data.validation.checks.pictures as pictures

    monkeypatch.setattr(pictures, "as_frame", None)
    report = validate(made("native, images"), deep=False)
    assert report.ok
    assert "images" not in report.ran


def test_nothing_there(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        validate(tmp_path / "nowhere")
    report = validate(tmp_path)
    assert "no dataset of a known format" in first_finding(report, "opens", "error").message


def test_progress_is_reported(made):
    seen: list[tuple[int, int]] = []
    validate(made("native, images"), progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (2 * sum(fuzz_sets.LENGTHS),) * 2


# --- checksums ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["native, images", "native, video"])
def test_a_flipped_byte_in_any_file_is_found(copied, name):
    root = copied(name)
    rng = np.random.default_rng(0)
    for path in [p for p in root.rglob("*") if p.is_file() and ".cache" not in p.parts]:
        good = path.read_bytes()
        for at in [0, len(good) - 1, *rng.integers(len(good), size=6)]:
            path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
            if (
                path.name == "stats.json"
            ):  # derived, and compared with the frames: its last digits matter to nobody
                continue
            assert is_whole(path) is not True, (path, at)
        path.write_bytes(good)
    found = validate(root)
    assert {(f.check, f.severity) for f in found.findings} <= {
        ("caches", "note")
    }  # of files that are younger now
    assert validate(root, fix=True).findings == ()


def test_the_reader_warns_of_metadata_that_changed(copied):
    root = copied("native, images")
    path = root / "meta/vla_spec.json"
    path.write_text(path.read_text().replace('"grip"', '"grap"'))
    assert any("its checksum differs" in warning for warning in EpisodeDataset(root).warnings)
    assert "its checksum differs" in first_finding(validate(root), "checksums", "error").message
    values = json.loads(path.read_text())
    del values["checksum"]
    path.write_text(json.dumps(values))
    assert EpisodeDataset(root).warnings == []
    assert first_finding(validate(root), "checksums").place == "meta/vla_spec.json"


def test_a_dataset_with_checksums_can_be_continued(copied):
    root = copied("native, video")
    with DatasetWriter(
        root, EpisodeDataset(root).spec, video=fuzz_sets.VideoConfig(crf=10), resume=True
    ) as writer:
        writer.add_episodes(fuzz_sets._episodes("front")[:1])
    report = validate(root)
    assert [f.check for f in report.findings] == ["duplicates"]


# --- damage ---------------------------------------------------------------------------------------


def test_one_damaged_file_does_not_hide_the_others(copied, monkeypatch):
    monkeypatch.setattr("vla.data.writer.OPEN_FILE_BYTES", 1)
    root = copied("native, images")
    shutil.rmtree(root)
    with DatasetWriter(root, fuzz_sets._spec("front", "wrist")) as writer:
        for made in fuzz_sets._episodes("front", "wrist"):
            writer.add_episode(made)
    files = sorted(root.glob("data/*/*.parquet"))
    assert len(files) == 4
    files[0].write_bytes(files[0].read_bytes()[:-9])
    data = files[2].read_bytes()
    at = data.index(b"IDAT") + 9
    files[2].write_bytes(data[:at] + b"#" + data[at + 1 :])
    (root / STATS).write_text("{")
    report = validate(root)
    places = {f.place for f in report.findings}
    assert {"data/chunk-000/file-000.parquet", "data/chunk-000/file-002.parquet", STATS} <= places
    assert first_finding(report, "opens", "error")
    assert first_finding(report, "lengths", "error").place == "episode 0"
    assert not [f for f in report.findings if f.place == "data/chunk-000/file-001.parquet"]


@pytest.mark.parametrize("name", ["LeRobot v3, video", "LeRobot v2.1"])
def test_a_video_that_is_missing_and_one_that_is_cut(copied, name):
    root = copied(name)
    films = sorted(root.rglob("*.mp4"))
    films[-1].write_bytes(films[-1].read_bytes()[:-3000])
    assert films[-1].name in first_finding(validate(root), "readable", "error").message
    films[0].unlink()
    found = first_finding(validate(root), "files", "error")
    assert found.place == films[0].relative_to(root).as_posix()
    assert "are missing" in found.message


def test_warnings_that_come_while_images_are_read(copied):
    root = copied("LeRobot v2.1")
    films = sorted(root.rglob("*.mp4"))
    shutil.copy(films[2], films[3])
    assert "has 5 frames, episode 3 has 4 steps" in first_finding(validate(root), "reader").message


def test_damaged_images_are_named_by_episode(copied):
    root = copied("folder")
    (root / "episode_2/wrist/000003.png").write_bytes(b"no picture")
    (root / "episode_1/wrist/000001.png").write_bytes(b"nor this")
    places = {f.place for f in validate(root).of("error")}
    assert {"episode 1, camera wrist", "episode 2, camera wrist"} <= places


def test_files_of_other_formats_one_by_one(copied):
    root = copied("RLDS")
    for path in root.glob("*.tfrecord*"):
        data = bytearray(path.read_bytes())
        data[60] ^= 1
        path.write_bytes(data)
    assert {f.place for f in validate(root).findings if f.check == "readable"} == {
        "toy-train.tfrecord-00000-of-00001",
        "toy-val.tfrecord-00000-of-00001",
    }


def test_links_out_of_the_dataset(copied, tmp_path):
    root = copied("LeRobot v3, images")
    (tmp_path / "outside.json").write_text("{}")
    (root / "meta/more.json").symlink_to(tmp_path / "outside.json")
    assert "out of the dataset's folder" in first_finding(validate(root), "links", "error").message


def test_files_that_no_episode_is_in(copied):
    root = copied("native, video")
    film = next(root.rglob("*.mp4"))
    shutil.copy(film, film.with_name("file-007.mp4"))
    assert first_finding(validate(root), "unreferenced", "note").place.endswith("file-007.mp4")


# --- content --------------------------------------------------------------------------------------


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """write(change) -> a dataset of 6 episodes, each changed by change(number, episode)."""

    def make(change: Callable[[int, Episode], dict[str, Any]], count: int = 6, L: int = 12) -> Path:
        with DatasetWriter(tmp_path / "content", fuzz_sets._spec("wrist")) as writer:
            for number in range(count):
                rng = np.random.default_rng(number)
                episode = Episode(
                    images={"wrist": rng.integers(0, 256, (L, 8, 12, 3), dtype=np.uint8)},
                    state=rng.normal(size=(L, 3)).astype(np.float32),
                    actions=rng.uniform(-1, 1, (L, 2)).astype(np.float32),
                    rewards=rng.normal(size=L).astype(np.float32),
                    success=np.zeros(L, bool),
                    terminated=False,
                    instruction="push the button",
                )
                writer.add_episode(dataclasses.replace(episode, **change(number, episode)))
        return tmp_path / "content"

    return make


CONTENT: dict[str, tuple[Callable[[int, Episode], dict[str, Any]], str, str]] = {
    "terminals": (lambda n, e: {"terminated": True}, "warning", "a time limit is no terminal"),
    "rewards": (
        lambda n, e: {"rewards": np.append(np.zeros(11), 1)},
        "warning",
        "have the return 1",
    ),
    "duplicates": (
        lambda n, e: {"actions": np.full((12, 2), n % 3 / 9), "state": np.full((12, 3), n % 3)},
        "warning",
        "episodes 0, 3 are the same",
    ),
    "constant_actions": (
        lambda n, e: {"actions": e.actions * np.array([1, 0], np.float32)},
        "note",
        "never move: dy; a policy learns nothing of them: if they are of no use, leave them out by "
        "the key action=[",
    ),
    "instructions": (
        lambda n, e: {"instruction": ("push the button", "Push the  button")[n % 2]},
        "warning",
        "'push the button' and 'Push the  button' differ in case or spaces",
    ),
    "images": (
        lambda n, e: (
            {"images": {"wrist": np.repeat(e.images["wrist"][:1], 12 if n == 4 else 1, 0)}}
            if n == 4
            else {}
        ),
        "warning",
        "'wrist' shows one picture",
    ),
}


@pytest.mark.parametrize("check", CONTENT)
def test_suspicious_content(write, check):
    change, severity, message = CONTENT[check]
    assert message in first_finding(validate(write(change)), check, severity).message


def test_no_rewards(write):
    root = write(lambda n, e: {"rewards": np.zeros(12)})
    assert "all rewards are zero" in first_finding(validate(root), "rewards", "note").message


def test_numbers_that_are_not_finite_and_actions_out_of_limits(copied):
    root = copied("native, images")

    def change(columns: dict[str, list[Any]]) -> None:
        columns["observation.state"][5] = [0.0, float("nan"), 0.0]
        columns["next.reward"][6] = float("inf")
        columns["action"][9] = [0.0, 3.0]

    edit_table(root / DATA, change)
    report = validate(root)
    finite = [f.message for f in report.of("error") if f.check == "finite"]
    assert "state: 'y' is nan at step 1 of episode 1" in finite[0]
    assert "rewards: 'reward' is inf at step 2 of episode 1" in finite[1]
    assert (
        "action 'dy' is 3 in episode 2" in first_finding(report, "action_limits", "error").message
    )


def test_changed_numbers_of_others_are_found_by_their_statistics(copied):
    for name in ("LeRobot v3, images", "LeRobot v2.1"):
        root = copied(name)
        path = sorted(root.glob("data/*/*.parquet"))[0]
        table = pq.read_table(path)
        rows = table.column("action").to_pylist()
        rows[2] = [0.25, *rows[2][1:]]
        place = table.column_names.index("action")
        pq.write_table(
            table.set_column(place, "action", pa.array(rows, table.schema.field("action").type)),
            path,
        )
        assert "'action'" in first_finding(validate(root), "episode_statistics").message
        shutil.rmtree(root)


def test_instructions_that_contradict_each_other(copied):
    root = copied("LeRobot v2.1")
    path = root / "meta/tasks.jsonl"
    path.write_text(path.read_text().replace("push the button", "push the bottom"))
    assert (
        "'push the bottom', the table of episodes 'push the button'"
        in first_finding(validate(root), "task_words").message
    )


def test_a_spec_that_is_gone(copied):
    root = copied("native, images")
    (root / "meta/vla_spec.json").unlink()
    assert any("limits of actions" in warning for warning in EpisodeDataset(root).warnings)
    assert first_finding(validate(root), "checksums", "error").place == "meta/vla_spec.json"


def test_timestamps_of_another_rate(copied):
    root = copied("LeRobot v3, images")
    edit(root / INFO, fps=30)
    report = validate(root)
    assert "info.json says 30 Hz" in first_finding(report, "control_rate").message
    assert "timestamp" in first_finding(report, "timestamps").message


# --- repairs --------------------------------------------------------------------------------------


def _leftover(root: Path) -> None:
    (root / "data/chunk-000/file-000.parquet.tmp").write_bytes(b"PAR1")
    (root / "meta/info.json.tmp").write_text("{")


def _stats(root: Path) -> None:
    stats = json.loads((root / STATS).read_text())
    stats["action"]["mean"][0] += 0.5
    (root / STATS).write_text(json.dumps(stats))


def _totals(root: Path) -> None:
    edit(root / INFO, total_frames=99, splits={"train": "0:3", "val": "3:100", "none": "x"})


def _camera(root: Path) -> None:
    features = json.loads((root / INFO).read_text())["features"]
    top = {"dtype": "video", "shape": [32, 48, 3], "names": ["height", "width", "channels"]}
    edit(root / INFO, features=features | {"observation.images.top": top})


def _sort(root: Path) -> None:
    def change(columns: dict[str, list[Any]]) -> None:
        for values in columns.values():
            values.reverse()

    edit_table(root / TASKS, change)


def _derived(root: Path) -> None:
    def change(columns: dict[str, list[Any]]) -> None:
        columns["return"][1], columns["success"][3] = 77.0, False

    edit_table(root / TABLE, change)


REPAIRS: dict[str, tuple[Callable[[Path], None], str]] = {
    "leftovers": (_leftover, "remove leftovers"),
    "statistics": (_stats, "rewrite stats.json"),
    "totals": (_totals, "correct totals and splits in info.json"),
    "cameras": (_camera, "drop cameras without files from info.json"),
    "tasks": (_sort, "sort the table of tasks"),
    "episodes_table": (_derived, "rebuild success, return and terminated of the episodes table"),
}


OURS, THEIRS = "native, video", "LeRobot v3, video"
CASES = [
    (check, OURS) for check in REPAIRS if check != "cameras"
]  # there the spec names the cameras
CASES += [
    (check, THEIRS) for check in REPAIRS if check != "episodes_table"
]  # theirs has no such columns


@pytest.mark.parametrize(("check", "name"), CASES)
def test_repairs(copied, check, name):
    root = copied(name)
    clean = EpisodeDataset(root)
    before = clean.columns.actions, clean.instructions, clean.episodes
    harm, fix = REPAIRS[check]
    harm(root)
    report = validate(root)
    assert (
        first_finding(report, check, "error" if check == "episodes_table" else "warning").fix == fix
    )
    repaired = validate(root, fix=True)
    assert [name for name, _ in repaired.repaired] == [fix]
    assert repaired.findings == ()
    after = EpisodeDataset(root)
    np.testing.assert_array_equal(after.columns.actions, before[0])
    assert (after.instructions, after.episodes.to_csv()) == (before[1], before[2].to_csv())
    originals = [p for p in (root / ".replaced").rglob("*") if p.is_file()]
    assert bool(originals) == (check != "leftovers")
    assert not list(root.rglob("*.tmp"))


def test_a_lost_stats_file_is_made_again(copied):
    for name in ("native, images", "LeRobot v3, video"):
        root = copied(name)
        good = json.loads((root / STATS).read_text())
        (root / STATS).unlink()
        assert validate(root, fix=True).findings == ()
        new = json.loads((root / STATS).read_text())
        assert new.keys() == good.keys()
        for feature, stats in good.items():
            for key, value in stats.items():
                np.testing.assert_allclose(new[feature][key], value, rtol=1e-6, atol=1e-9)
        shutil.rmtree(root)


def test_damaged_frames_in_the_cache_are_decoded_again(copied):
    root = copied("native, images")
    FrameCache(EpisodeDataset(root), "disk")
    (first, *_) = root.glob(".cache/frames-*/frames.bin")
    data = bytearray(first.read_bytes())
    data[4000] ^= 9
    first.write_bytes(data)
    assert first_finding(validate(root), "caches", "error").fix
    repaired = validate(root, fix=True)
    assert repaired.findings == ()
    assert repaired.repaired


def test_damage_gets_no_new_checksum(copied):
    root = copied("native, images")
    path = root / INFO
    path.write_text(path.read_text().replace('"total_frames": 16', '"total_frames": 17'))
    report = validate(root, fix=True)
    assert report.repaired == ()
    assert "restore it before anything is repaired" in first_finding(report, "fix", "error").message
    assert is_whole(path) is False


def test_version_2_is_repaired_where_info_says_too_much(copied):
    root = copied("LeRobot v2.1")
    _camera(root)
    _totals(root)
    report = validate(root, fix=True)
    assert len(report.repaired) == 2
    assert report.findings == ()


def test_real_metadata(real_data, tmp_path):
    """PickNPlace declares a camera that it does not have, and 100 episodes for training."""
    root = tmp_path / "picknplace"
    shutil.copytree(real_data / "lerobot_v2_picknplace", root)
    report = validate(root, deep=False, fix=True)
    assert {name for name, _ in report.repaired} == {REPAIRS["totals"][1], REPAIRS["cameras"][1]}
    expected = {"rewards", "timestamps", "constant_actions", "constant_state", "success"}
    assert {f.check for f in report.findings} == expected


# --- command line ---------------------------------------------------------------------------------


def test_the_command(copied):
    root, run = copied("native, images"), CliRunner().invoke
    clean = run(app, ["data", "validate", str(root)])
    assert (clean.exit_code, "0 errors, 0 warnings" in clean.output) == (0, True)
    _leftover(root)
    repaired = run(app, ["data", "validate", str(root), "--fix", "--fast"])
    assert (repaired.exit_code, "repaired: remove leftovers" in repaired.output) == (0, True)
    (root / DATA).write_bytes((root / DATA).read_bytes()[:-1])
    found = run(app, ["data", "validate", str(root), "--json"])
    assert found.exit_code == 1
    report = json.loads(found.stdout)
    assert (report["ok"], report["format"]) == (False, "lerobot")
    assert {"check", "severity", "place", "message", "fix"} == set(report["findings"][0])
    assert run(app, ["data", "validate", str(root / "nowhere")]).exit_code == 2


def test_keys_are_honoured(copied):
    root = copied("LeRobot v3, images")
    edit(root / INFO, total_frames=1)
    assert validate(root, keys=KeyMap(cameras={"a": "observation.images.wrist"})).ok
    assert (
        "no feature 'none'"
        in first_finding(validate(root, keys=KeyMap(state=["none"])), "opens", "error").message
    )


def test_nothing_to_see(tmp_path: Path) -> None:
    """Actions alone are no dataset; the key that the reader names makes it one."""
    actions = np.random.default_rng(0).normal(size=(12, 2))
    np.savez(tmp_path / "d.npz", **{"0/actions": actions, "0/sensor": actions[:, :1]})
    report = validate(tmp_path / "d.npz")
    found = first_finding(report, "observations", "error")
    assert "neither state nor camera is read" in found.message
    assert any("state=[sensor]" in finding.message for finding in report.findings)
    whole = validate(tmp_path / "d.npz", keys=KeyMap(state=["sensor"]))
    assert not [finding for finding in whole.findings if finding.check == "observations"]
