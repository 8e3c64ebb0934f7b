"""Versions of installed packages, as runs and results record them."""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Iterable


@functools.cache  # metadata is a long e-mail to parse, and every run asks for several
def version_of(package: str) -> str | None:
    """Installed version of a distribution; None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """package -> version, of those that are installed, in the order given."""
    versions = {package: version_of(package) for package in packages}
    return {package: version for package, version in versions.items() if version is not None}
