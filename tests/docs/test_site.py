"""The site builds strictly, asks for nothing outside of itself, and its notebook runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from scripts.docs.hooks import _links_within_the_site
from scripts.docs.notebook import page
from scripts.docs.public import undocumented
from scripts.docs.run_notebook import execute

ROOT = Path(__file__).parents[2]


def test_the_public_api_has_docstrings() -> None:
    assert undocumented() == []


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built strictly."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    built = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr[-4000:]
    assert "WARNING" not in built.stderr
    return folder


def test_nothing_is_fetched(site: Path) -> None:
    loaded = re.compile(r"<(?:script|img|iframe|source)[^>]*\ssrc=[\"']?(?:https?:)?//", re.I)
    linked = re.compile(
        r"<link[^>]*rel=[\"']?(?:stylesheet|preconnect|preload)[^>]*(?:https?:)?//", re.I
    )
    pages = list(site.rglob("*.html"))
    assert len(pages) > 40
    for path in pages:
        text = path.read_text(encoding="utf-8")
        assert not loaded.search(text), path
        assert not linked.search(text), path


def test_comments_of_the_pages_are_filled(site: Path) -> None:
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"<!-- (source|options|api|commands):", text), path
    iql = (site / "objectives" / "iql.html").read_text(encoding="utf-8")
    assert "vla/training/losses.py" in iql
    assert "<code>expectile</code>" in iql
    assert 'id="vla.types.Spec"' in (site / "api" / "types.html").read_text(encoding="utf-8")


def test_links_of_the_root_files_are_those_of_the_site() -> None:
    text = "[a](docs/layouts.md#rt-1) [b](CHANGELOG.md) [c](https://x.org) `[d]` [`vla/x.py`](vla/x.py) ![e](docs/e.png)"
    assert _links_within_the_site(text) == (
        "[a](layouts.md#rt-1) [b](changelog.md) [c](https://x.org) `[d]` `vla/x.py` "
        "![e](docs/e.png)"
    )


def test_the_notebook_runs(tmp_path: Path) -> None:
    notebook = nbformat.read(ROOT / "docs" / "first_policy.ipynb", as_version=4)
    # fewer steps: that it learns is shown by the outputs that were kept
    for old, new in (
        ('"steps": 200', '"steps": 4'),
        ("range(200)", "range(20)"),
        ("0, 20\n", "0, 2\n"),
    ):
        changed = [cell for cell in notebook.cells if old in cell.source]
        assert len(changed) == 1, old
        changed[0].source = changed[0].source.replace(old, new)
    execute(notebook)
    assert re.match(r"\d of 2 \(95 % interval", notebook.cells[-2].outputs[-1].text)


def test_the_notebook_is_kept_with_its_outputs() -> None:
    path = ROOT / "docs" / "first_policy.ipynb"
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    arrived = int(notebook.cells[-2].outputs[-1].text.split()[0])
    assert arrived >= 10  # of 20: it has learned
    shown = page(path)
    assert "data:image/png;base64," in shown
    assert "/tmp/" not in path.read_text()
