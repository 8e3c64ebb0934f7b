"""The house's floors, read from the imports themselves: a room imports only from lower floors."""

from __future__ import annotations

import ast
from pathlib import Path

import vla

ROOT = Path(vla.__file__).parent
FLOORS = [
    {"types", "config"},
    {"data", "tokenizers"},
    {"models"},
    {"training", "sim_eval", "serving"},
    {"recipes"},
    {"cli"},
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def _room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def _imports(path: Path) -> set[str]:
    """Rooms of vla that a file imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            base = node.module or ""
            names = [base] if base != "vla" else [f"vla.{alias.name}" for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("vla.")}
    return found & set(FLOOR_OF)


def _files() -> list[Path]:
    return [p for p in sorted(ROOT.rglob("*.py")) if p != ROOT / "__init__.py"]


def test_every_room_has_a_floor() -> None:
    assert {_room(p) for p in _files()} <= set(FLOOR_OF)


def test_rooms_import_only_from_lower_floors() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {room}"
        for path in _files()
        for room in _imports(path) - {_room(path)}
        if FLOOR_OF[room] > FLOOR_OF[_room(path)]
        or (FLOOR_OF[room] == FLOOR_OF[_room(path)] and FLOOR_OF[room] > 0)
    ]
    assert wrong == []


def test_modules_import_in_no_circle() -> None:
    modules = {
        ".".join(["vla", *p.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__"): p
        for p in _files()
    }
    graph: dict[str, set[str]] = {}
    for name, path in modules.items():
        body = ast.parse(path.read_text()).body
        body += [
            n for node in body if isinstance(node, ast.If) for n in node.body
        ]  # `if TYPE_CHECKING:` counts
        used = [n for n in body if isinstance(n, ast.Import | ast.ImportFrom)]
        targets: set[str] = set()
        for node in used:
            if isinstance(node, ast.Import):
                targets |= {a.name for a in node.names}
            else:
                targets |= {f"{node.module}.{a.name}" for a in node.names} | {node.module or ""}
        graph[name] = {
            t for t in targets if t in modules and t != name and not name.startswith(t + ".")
        }

    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail[trail.index(name) :], name))
        if name not in done:
            for target in graph[name]:
                visit(target, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_no_file_is_longer_than_600_lines() -> None:
    assert [p.name for p in _files() if len(p.read_text().splitlines()) > 600] == []


def test_importing_the_package_is_quick() -> None:
    """`import vla` must not pull in torch: the command line's help and completions depend on it."""
    import subprocess
    import sys

    code = "import sys, vla, vla.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_files_that_are_not_python_are_packaged() -> None:
    """What an installed package needs beside its code is named in pyproject.toml."""
    import tomllib

    project = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["vla"]
    packaged = {path for pattern in patterns for path in ROOT.glob(pattern)}
    others = {p for p in ROOT.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")}
    assert others <= packaged
