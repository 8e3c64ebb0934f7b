"""What the pages name exists: modules, files, configs, commands, registered names, links."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from scripts.docs.commands import commands
from scripts.docs.source import SourceError, code_block, module_of
from vla.common import registry
from vla.serving.protocols.openpi import KEYS as OPTIONAL_KEYS

ROOT = Path(__file__).parents[2]

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "docs").glob("*.ipynb")),
]
TEXTS = {path: path.read_text(encoding="utf-8") for path in PAGES}
PLACEHOLDERS = re.compile(r"NAME|FILE|FOLDER|POLICIES|[*<>{}]")


def found(pattern: str) -> list[tuple[str, str]]:
    """(page, match) of a pattern in all pages, without placeholders such as NAME."""
    return [
        (str(path.relative_to(ROOT)), match)
        for path, text in TEXTS.items()
        for match in re.findall(pattern, text)
        if not PLACEHOLDERS.search(match)
    ]


def defined_in(path: Path) -> set[str]:
    """What a module defines or imports at its top level."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def exists(dotted: str) -> bool:
    """Whether `vla.x.y` is a module, or something that a module defines."""
    try:
        path, names = module_of(dotted)
    except SourceError:
        return False
    if not names:
        return True
    # the package's own names are loaded when they are used, and listed as strings
    return names[0] in defined_in(path) or (
        path == ROOT / "vla" / "__init__.py" and f'"{names[0]}"' in path.read_text()
    )


def test_dotted_names_exist() -> None:
    named = found(r"(?<![\w./-])vla(?:\.[A-Za-z_]\w*)+")
    assert named
    # vla.plugins is an entry-point group, vla.cli is run with -m
    wrong = [pair for pair in named if pair[1] != "vla.plugins" and not exists(pair[1])]
    assert wrong == []


@pytest.mark.parametrize(
    "folder", ["vla", "configs", "benchmarks", "tests", "examples", "scripts", "docs"]
)
def test_files_exist(folder: str) -> None:
    named = found(rf"(?<![\w./-]){folder}/[\w./*-]*[\w/]")
    # keys of the server's observations look like paths
    files = [pair for pair in named if pair[1] not in OPTIONAL_KEYS]
    wrong = [pair for pair in files if not (ROOT / pair[1]).exists()]
    assert wrong == []


def test_imports_of_the_code_blocks_exist() -> None:
    wrong = []
    for page, statement in found(r"from (vla[\w.]* import [\w, ]+)"):
        module, names = statement.split(" import ")
        wrong += [
            (page, f"{module}.{name.strip()}")
            for name in names.split(",")
            if not exists(f"{module}.{name.strip()}")
        ]
    assert wrong == []


def test_commands_exist() -> None:
    known = {typed for typed, _ in commands()}
    first = {typed.split()[1] for typed in known}
    groups = {typed.rsplit(" ", 1)[0] for typed in known if typed.count(" ") == 2}
    # a command stands at the beginning of a line or of code
    lines = found(r"(?m)(?:^ *|`|accelerate launch .*-m )(vla(?:\.cli)? [a-z]+(?: [a-z_|\\]+)?)")
    assert len(lines) > 50
    wrong = []
    for page, line in lines:
        words = line.replace("vla.cli", "vla").split()
        if words[1] not in first:
            wrong.append((page, line))
        group = " ".join(words[:2])
        if group in groups - known and len(words) > 2:
            inner = re.split(r"\\?\|", words[2])
            wrong += [(page, line) for name in inner if f"{group} {name}" not in known]
    assert wrong == []


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z0-9_ -]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    targets = {name for line in targets for name in line.split()}
    named = [(page, name) for page, text in found(r"`make ([a-z0-9_ -]+)") for name in text.split()]
    assert [pair for pair in named if pair[1] not in targets] == []


def test_every_objective_has_a_page() -> None:
    pages = {path.stem for path in (ROOT / "docs" / "objectives").glob("*.md")} - {"index"}
    assert pages == set(registry.names("objectives"))
    parts = (ROOT / "docs" / "objectives" / "actor_critic.md").read_text()
    for kind in ("values", "extractions"):
        for name in registry.names(kind):
            assert f"<!-- options: {kind} {name} -->" in parts


def test_kinds_of_contributing_are_those_of_the_registry() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    kinds = set(re.findall(r'@register\("(\w+)"', text))
    assert kinds == set(registry.KINDS)
    for kind, package in registry.KINDS.items():
        folder = package.replace(".", "/")
        row = next(line for line in text.splitlines() if f'@register("{kind}"' in line)
        assert f"`{folder}/" in row


def test_links_between_files_lead_somewhere() -> None:
    wrong = []
    for path, text in TEXTS.items():
        if path.suffix == ".ipynb":
            continue
        for target in re.findall(r"\]\(([^)#\s]+)", text):
            if "://" not in target and not (path.parent / target).exists():
                wrong.append((str(path.relative_to(ROOT)), target))
    assert wrong == []


def test_included_code_exists() -> None:
    for _, dotted in found(r"<!-- source: (\S+) -->"):
        block = code_block(dotted)
        assert block.startswith('```python title="vla/')
        assert '"""' not in block


def test_code_that_does_not_exist_is_refused() -> None:
    with pytest.raises(SourceError, match="defines no nobody"):
        code_block("vla.training.losses.nobody")
    with pytest.raises(SourceError, match="neither a function nor a class"):
        code_block("vla.training.losses")
