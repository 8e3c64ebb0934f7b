"""Measures the code of `vla/`: sizes of folders and files, comments, density. Prints JSON.

    python scripts/measure_code.py [FOLDER]

A code line holds a token of the program that is no comment and no docstring. A comment counts once for each line on
which it stands; `type: ignore` and `noqa` are no comments. Tokens are names, operators, numbers and strings.
"""

from __future__ import annotations

import ast
import io
import json
import statistics
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
COUNTED = (tokenize.NAME, tokenize.OP, tokenize.NUMBER, tokenize.STRING)


@dataclass(frozen=True)
class FileSize:
    """What one file holds: lines in all, code lines, lines with a comment, tokens, and the longest line's length."""

    path: Path
    lines: int
    code_lines: int
    comment_lines: int
    tokens: int
    longest_line: int


def docstring_lines(tree: ast.Module) -> set[int]:
    """Numbers of the lines of all docstrings, those of attributes with them."""
    found: set[int] = set()
    for node in ast.walk(tree):
        value = node.value if isinstance(node, ast.Expr) else None
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            found |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return found


def _tokens(text: str) -> Iterator[tokenize.TokenInfo]:
    """The tokens of a file. An f-string is one, as before Python 3.12, which takes it apart."""
    depth, start = 0, (0, 0)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        name = tokenize.tok_name[token.type]
        if name == "FSTRING_START":
            start = start if depth else token.start
            depth += 1
        elif name == "FSTRING_END":
            depth -= 1
            if depth == 0:
                yield tokenize.TokenInfo(tokenize.STRING, "", start, token.end, token.line)
        elif depth == 0:
            yield token


def measure(path: Path) -> FileSize:
    """Counts the lines and tokens of one Python file."""
    text = path.read_text(encoding="utf-8")
    documentation = docstring_lines(ast.parse(text))
    code: set[int] = set()
    comments: set[int] = set()
    tokens = 0
    for token in _tokens(text):
        line = token.start[0]
        if token.type == tokenize.COMMENT:
            if "type:" not in token.string and "noqa" not in token.string:
                comments.add(line)
        elif token.type in COUNTED and line not in documentation:
            code.update(range(line, token.end[0] + 1))
            tokens += 1
    lines = text.splitlines()
    longest = max((len(line) for line in lines), default=0)
    return FileSize(path, len(lines), len(code), len(comments), tokens, longest)


def folder_sizes(files: list[Path]) -> dict[str, int]:
    """folder -> number of its Python files, the fullest first."""
    counts = Counter(str(path.parent) for path in files)
    return dict(counts.most_common())


def report(folder: Path) -> dict[str, object]:
    """The numbers that STYLE asks for."""
    files = sorted(folder.rglob("*.py"))
    sizes = [measure(path) for path in files]
    code_lines = sum(size.code_lines for size in sizes)
    lengths = [size.lines for size in sizes if size.lines > 0]
    fullest, number = next(iter(folder_sizes(files).items()))
    return {
        "files": len(files),
        "lines": sum(lengths),
        "code_lines": code_lines,
        "largest_folder": {
            "folder": str(Path(fullest).relative_to(folder.parent)),
            "files": number,
        },
        "median_file": statistics.median(lengths),
        "longest_file": max(lengths),
        "longest_line": max(size.longest_line for size in sizes),
        "comments_per_100_code_lines": round(
            100 * sum(s.comment_lines for s in sizes) / code_lines, 2
        ),
        "tokens_per_code_line": round(sum(size.tokens for size in sizes) / code_lines, 2),
    }


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "vla"
    print(json.dumps(report(folder.resolve()), indent=2))


if __name__ == "__main__":
    main()
