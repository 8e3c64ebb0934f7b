"""The page of licences is that of the lock, and a licence that nobody has looked at is refused."""

from __future__ import annotations

import pytest

from scripts import licences


def test_the_page_is_that_of_the_lock() -> None:
    """Packages that are not installed here are left out of both sides."""
    found = licences.rows(licences.locked(licences.LOCK.read_text()))
    assert licences.unknown(found) == []
    written = licences.PAGE.read_text().splitlines()
    missing = [row.name for row in found if f"| {row.name} | {row.version} |" not in str(written)]
    assert missing == []


def test_what_libero_adds_is_listed() -> None:
    found = licences.libero_rows()
    assert licences.unknown(found) == []
    assert {row.name for row in found} == set(licences.OF_LIBERO)
    text = licences.PAGE.read_text()
    assert [row.name for row in found if f"| {row.name} | {row.version} |" not in text] == []


def test_locks_agree_and_name_no_registry() -> None:
    both = licences.locked(licences.LOCK.read_text()), licences.LIBERO_LOCK.read_text()
    shared = both[0].keys() & licences.locked(both[1]).keys()
    assert {name: both[0][name] for name in shared} == {
        name: version for name, version in licences.locked(both[1]).items() if name in shared
    }
    assert "mujoco" in shared
    assert "://" not in both[1]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("MIT", ("MIT",)),
        ("Apache Software License; BSD License", ("BSD", "Apache-2.0")),
        ("GPL-3.0-only", ()),
        ("permitted to nobody", ()),
        ("", ()),
    ],
)
def test_what_is_known(text: str, names: tuple[str, ...]) -> None:
    assert licences.names_of(text) == names


def test_what_is_not_known_is_refused() -> None:
    row = licences.Row("odd", "1.0", "Beerware", licences.names_of("Beerware"))
    (line,) = licences.unknown([row])
    assert line.startswith("odd 1.0: its licence is 'Beerware', which is not known")


def test_lines_of_a_lock() -> None:
    lock = "a==1.0 \\\n    --hash=sha256:00\nb==2.0 ; sys_platform == 'nowhere' \\\n    --hash=sha256:11"
    assert licences.locked(lock) == {"a": "1.0"}
