"""Fields of configs that are paths: `~` and environment variables in them are expanded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from vla.common.paths import expanded_path


def _expanded(path: Path) -> Path:
    return Path(expanded_path(str(path)))


PathText = Annotated[str, AfterValidator(expanded_path)]
"""A path in a config as text: of a folder, a file or a URL."""
ConfigPath = Annotated[Path, AfterValidator(_expanded)]
"""The same as a `Path`."""

__all__ = ["ConfigPath", "PathText"]
