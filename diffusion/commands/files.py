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

    inputs : what the command reads, files or folders of files, and therefore never writes over.

    Raises
    ------
    ValueError : a file (or a folder that is not empty) is there already, and `overwrite` is not given; a file is to
        stand where a folder is, or the other way round, or where a device is; one file is to be written twice.
    OSError : there can be no such folder, or no file of this name can be written there.
    """
    read = {path.resolve() for path in inputs}
    places = [path.resolve() for path in paths]
    for path, place in zip(paths, places, strict=True):
        if places.count(place) > 1:
            raise ValueError(message("--output", f"{path} for two things", "a name for each", "Choose another name."))
        if place in read or (path.exists() and not read.isdisjoint(place.parents)):
            raise ValueError(message("--output", f"{path}, which is read by the same command", "another name"))
        if path.exists() and not (path.is_dir() if path in folders else path.is_file()):
            kind = "folder" if path.is_dir() else "file" if path.is_file() else "device"
            raise ValueError(message("--output", f"{path}, which is a {kind}", "the name of a new file or folder"))
        empty = path.is_dir() and not any(path.iterdir())
        if path.exists() and not empty and not overwrite:
            raise ValueError(message("--output", f"{path}, which is there already", "a new file or folder", advice))
    for path in paths:
        folder = path if path in folders else path.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            got = f"{path}, and {error.filename} on the way there, which is no folder"
            raise NotADirectoryError(message("--output", got, "a name in a folder")) from error
        try:
            with replacing(folder / "0.png" if path in folders else path, keep=False):
                pass
        except OSError as error:
            got = f"{path}, which cannot be written there ({error.strerror})"
            raise PermissionError(message("--output", got, "another name or folder")) from error


@contextmanager
def replacing(path: Path, *, keep: bool = True) -> Iterator[BinaryIO]:
    """A file that takes its place when it is complete; without `keep` it never does."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            yield file
        if keep:
            partial.replace(path)
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """A JSON file, for people and programs."""
    with replacing(path) as file:
        file.write((json.dumps(content, indent=2) + "\n").encode())
