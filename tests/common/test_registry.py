"""The registry: names without imports, one import per name, former names, plug-ins."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from vla.common import registry, renamed
from vla.common.renamed import RenamedWarning
from vla.config import Config, register

HEAVY = ("torch", "timm", "transformers", "gymnasium", "mujoco", "pandas", "scipy")


@pytest.fixture(autouse=True)
def _what_a_test_registers_is_gone_after_it(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(renamed, "_announced", set())
    monkeypatch.setattr(registry, "_former", {kind: {} for kind in registry.KINDS})
    yield
    for found in registry._registry.values():
        for name in [name for name, known in found.items() if known.__module__ == __name__]:
            del found[name]


def in_a_fresh_process(code: str, tmp_path: Path) -> Any:
    """What `code` prints as JSON; `tmp_path` may hold modules and metadata of plug-ins."""
    environment = {"PYTHONPATH": ":".join([str(tmp_path), *sys.path])}
    program = f"import json, sys\n{code}"
    found = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    return json.loads(found.stdout)


@pytest.mark.parametrize("kind", registry.KINDS)
def test_every_kind_lists_what_importing_its_files_registers(kind: str) -> None:
    entries = registry.entries(kind)
    assert entries
    assert [entry.name for entry in entries] == list(registry.registered(kind))
    # what other tests have registered need not say what it is
    assert all(entry.summary for entry in entries if entry.module.startswith("vla."))


def test_listing_names_imports_none_of_the_files(tmp_path: Path) -> None:
    code = f"""
from vla.common import registry
names = {{kind: registry.names(kind) for kind in registry.KINDS}}
print(json.dumps([[m for m in {HEAVY} if m in sys.modules], names["policies"]]))
"""
    heavy, policies = in_a_fresh_process(code, tmp_path)
    assert heavy == []
    assert {"rt1", "mlp", "decision_transformer"} <= set(policies)


def test_looking_up_one_name_imports_one_file(tmp_path: Path) -> None:
    code = """
from vla.common import registry
found = registry.lookup("objectives", "bc").__name__
loaded = [m for m in sys.modules if m.startswith("vla.training.objectives.")]
print(json.dumps([found, loaded]))
"""
    found, loaded = in_a_fresh_process(code, tmp_path)
    assert found == "BCConfig"
    assert "vla.training.objectives.cql" not in loaded


def test_a_plugin_written_for_the_former_place_of_register(tmp_path: Path) -> None:
    (tmp_path / "my_plugin.py").write_text(
        """
from typing import Literal
from vla.config import register
from vla.training.values.base import ValueConfig

@register("values", "mine")
class Mine(ValueConfig):
    \"\"\"A value part of another package.\"\"\"
    type: Literal["mine"] = "mine"
    def build(self, feature_dim, spec, chunk):
        raise AssertionError
"""
    )
    metadata = tmp_path / "my_plugin-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: my-plugin\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text("[vla.plugins]\nmine = my_plugin\n")
    code = """
import warnings
from vla.common import registry
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    entry = {e.name: e for e in registry.entries("values")}["mine"]
    found = registry.lookup("values", "mine").__name__
print(json.dumps([entry.module, entry.summary, found, [str(w.message) for w in said]]))
"""
    module, summary, found, said = in_a_fresh_process(code, tmp_path)
    assert (module, found) == ("my_plugin", "Mine")
    assert summary == "A value part of another package."
    assert any("vla.training.offline_rl.values.base" in line for line in said)


def test_a_former_name_works_and_says_once_what_to_write() -> None:
    @register("heads", "wide", former=("broad",))
    class Wide(Config):
        type: Literal["wide"] = "wide"

    with pytest.warns(RenamedWarning, match="type: broad is now called type: wide"):
        assert registry.lookup("heads", "broad") is Wide
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert registry.lookup("heads", "broad") is Wide
    assert "broad" not in registry.names("heads")


def test_names_of_a_class() -> None:
    found = registry.lookup("policies", "rt1")
    assert registry.name_of("policies", found) == "rt1"
    assert registry.is_registered("policies", found)
    assert registry.name_of("policies", Config) is None
    assert not registry.is_registered("policies", Config)


def test_a_name_that_is_taken() -> None:
    registry.lookup("policies", "rt1")
    with pytest.raises(ValueError, match=r"'rt1' is registered by vla\.models\.policies\.rt1"):

        @register("policies", "rt1")
        class Other(Config):
            type: Literal["rt1"] = "rt1"


def test_an_unknown_kind_and_an_unknown_name() -> None:
    with pytest.raises(KeyError, match=r"no kind 'policys' \(did you mean 'policies'\?\)"):
        registry.entries("policys")
    with pytest.raises(KeyError, match=r"no 'rt11' among policies \(did you mean 'rt1'\?\)"):
        registry.lookup("policies", "rt11")
