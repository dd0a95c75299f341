"""Files that commands write: none is written over unasked, and none is ever half written."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from sdesolve.errors import message

__all__ = ["check_outputs", "replacing", "write_json"]


REPLACE = "Give --overwrite to replace it."


def check_outputs(
    paths: Sequence[Path],
    overwrite: bool,
    advice: str = REPLACE,
    *,
    inputs: Sequence[Path] = (),
    folders: Collection[Path] = (),
) -> None:
    """Make the folders in which files are to be written; those of `folders` are to be folders themselves.

    inputs : what the command reads, and therefore never writes over.

    Raises
    ------
    ValueError : a file (or a folder that is not empty) is there already, and `overwrite` is not given; a file is to
        stand where a folder is, or the other way round.
    OSError : the folder cannot be written to.
    """
    read = {path.resolve() for path in inputs}
    for path in paths:
        if path.resolve() in read:
            raise ValueError(message("--output", f"{path}, which is read by the same command", "another name"))
        if path.exists() and path.is_dir() != (path in folders):
            kind = "folder" if path.is_dir() else "file"
            raise ValueError(message("--output", f"{path}, which is a {kind}", "the name of a new file or folder"))
        empty = path.is_dir() and not any(path.iterdir())
        if path.exists() and not empty and not overwrite:
            raise ValueError(message("--output", f"{path}, which is there already", "a new file or folder", advice))
    for path in paths:
        folder = path if path in folders else path.parent
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(message("--output", f"{path}, in a folder that cannot be written to", "another one"))


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes its place when it is complete."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            yield file
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """A JSON file, for people and programs."""
    with replacing(path) as file:
        file.write((json.dumps(content, indent=2) + "\n").encode())
