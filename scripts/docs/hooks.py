"""Called by mkdocs (`hooks:` in mkdocs.yml): fills comments of the pages, adds pages from elsewhere.

    <!-- source: vla.training.losses.expectile_loss -->    the code of a function, method or class
    <!-- options: objectives iql -->                       the options of a registered config
    <!-- api: vla.types -->                                the reference of a module's public names
    <!-- commands: vla -->                                    the commands of the command line

What is wrong is logged as a warning, and `mkdocs build --strict` then fails.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from scripts.docs.commands import commands_table
from scripts.docs.notebook import page as notebook_page
from scripts.docs.options import options_table
from scripts.docs.public import public_names, undocumented
from scripts.docs.source import ROOT, code_block

log = logging.getLogger("mkdocs.hooks.vla")

ROOT_PAGES = {
    "contributing.md": "CONTRIBUTING.md",
    "architecture.md": "ARCHITECTURE.md",
    "changelog.md": "CHANGELOG.md",
}
"""Page of the site -> file at the root of the repository."""
NOTEBOOKS = {"notebook.md": "first_policy.ipynb"}
"""Page of the site -> notebook in docs/."""

_COMMENT = re.compile(r"^<!-- (source|options|api|commands): (.+?) -->$", re.MULTILINE)


def on_config(config: Any) -> Any:
    for name in undocumented():
        log.warning("%s is public and has no docstring", name)
    return config


def on_files(files: Files, config: Any) -> Files:
    for page, name in ROOT_PAGES.items():
        text = _links_within_the_site((ROOT / name).read_text(encoding="utf-8"))
        files.append(File.generated(config, page, content=text))
    for page, name in NOTEBOOKS.items():
        text = notebook_page(Path(config["docs_dir"]) / name)
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    def write(match: re.Match[str]) -> str:
        try:
            return _WRITERS[match[1]](*match[2].split())
        except (ValueError, KeyError, ImportError) as error:
            log.warning("%s: %s: %s", page.file.src_uri, match[0], error)
            return ""

    return _COMMENT.sub(write, _links_to_made_pages(markdown))


def _api(module: str) -> str:
    return "\n\n".join(f"::: {module}.{name}" for name in public_names(module))


_WRITERS: dict[str, Callable[..., str]] = {
    "source": code_block,
    "options": options_table,
    "api": _api,
    "commands": commands_table,
}


def _links_to_made_pages(text: str) -> str:
    """Links of a page to notebooks and to files at the root, as they must be in the site.

    In the repository they lead to the files themselves, so that they work there too.
    """
    for page, name in NOTEBOOKS.items():
        text = text.replace(f"({name})", f"({page})").replace(f"/{name})", f"/{page})")
    for page, name in ROOT_PAGES.items():
        # the root of the repository is one folder above that of the site
        text = re.sub(rf"\]\(\.\./((?:\.\./)*){re.escape(name)}", rf"](\1{page}", text)
    return text


def _links_within_the_site(text: str) -> str:
    """Links of a file at the root, as they must be in the site: to pages, or else plain text."""
    pages = {name: page for page, name in ROOT_PAGES.items()}

    def rewrite(match: re.Match[str]) -> str:
        label, target = match[1], match[2]
        path, hash_, anchor = target.partition("#")
        if path.startswith("docs/"):
            return f"[{label}]({path.removeprefix('docs/')}{hash_}{anchor})"
        if path in pages:
            return f"[{label}]({pages[path]}{hash_}{anchor})"
        if "://" in target or not path:
            return match[0]
        # a file of the repository that is no page: its name is all that can be shown
        return label if label == f"`{path}`" else f"{label} (`{path}`)"

    return re.sub(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)", rewrite, text)
