"""Versions of packages, for reports of figures."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version


def versions(packages: tuple[str, ...]) -> dict[str, str | None]:
    """Those of Python and of the named packages; None for what is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found
