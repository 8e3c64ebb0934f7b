"""Random corruptions of datasets of every format; `benchmarks/data_fuzz.py` runs thousands of
them."""

from __future__ import annotations

import shutil
from collections import Counter

import numpy as np
import pytest

pytest.importorskip("h5py", reason="needs the extra `robomimic`")
pytest.importorskip("minari", reason="needs the extra `minari`")
pytest.importorskip("google_crc32c", reason="needs the extra `rlds`")
import fuzz
import fuzz_sets

CORRUPTIONS = 60


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[fuzz_sets.Sample]:
    return fuzz_sets.build(tmp_path_factory.mktemp("clean"))


def test_nothing_passes_unseen(samples, tmp_path):
    before = {sample.name: fuzz.clean(sample) for sample in samples}
    judged = []
    for number in range(CORRUPTIONS):
        sample = samples[number % len(samples)]
        judged.append(fuzz.trial(sample, before[sample.name], tmp_path / "copy", number))
    bad = [(number, j) for number, j in enumerate(judged) if j.outcome in fuzz.BAD]
    assert bad == []
    outcomes = Counter(j.outcome for j in judged)
    assert outcomes["refused"] + outcomes["found"] > CORRUPTIONS / 2
    assert len({j.damage.kind for j in judged}) >= 8


def test_the_judge_sees_what_is_silent(samples, tmp_path):
    """Damage that a reader takes for data: found in ours, plausible in others' files without
    checksum, silent elsewhere."""
    plain = next(sample for sample in samples if sample.name == "folder")
    before = fuzz.clean(plain)
    copy = tmp_path / "folder"
    shutil.copytree(plain.path, copy)
    path = copy / "episode_0/steps.csv"
    path.write_text(path.read_text().replace("0.1,", "0.11,", 1))
    path.write_text(path.read_text().replace("open", "shut"))
    (copy / "episode_0/instruction.txt").write_text("close the drawer\n")
    assert (
        fuzz.judge(plain, before, copy, fuzz.Damage("edit", "episode_0/instruction.txt"))[0]
        == "plausible"
    )
    assert (
        fuzz.judge(plain, before, copy, fuzz.Damage("delete", "episode_0/instruction.txt"))[0]
        == "SILENT"
    )
    assert (
        fuzz.judge(plain, before, copy, fuzz.Damage("edit", "episode_0/wrist/000000.png"))[0]
        == "SILENT"
    )


def test_damage_is_a_function_of_its_number(samples, tmp_path):
    source = samples[0].path
    contents = []
    for name in ("one", "two"):
        shutil.copytree(source, tmp_path / name)
        damage = fuzz.harm(tmp_path / name, np.random.default_rng(7))
        contents.append((damage, [p.read_bytes() for p in fuzz.files_of(tmp_path / name)]))
    assert contents[0] == contents[1]
