"""Checkpoints: one safetensors file of tensors, with a JSON header; nothing in it is ever executed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdesolve.errors import message

__all__ = ["CheckpointError", "load_checkpoint", "save_checkpoint"]

FORMAT = "diffusion-checkpoint-1"


class CheckpointError(ValueError):
    """A file that is not a checkpoint, or one of another training."""


def save_checkpoint(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors and JSON-serialisable facts to one file.

    The file is complete at every moment: it is written beside its place and then renamed. Folders are made if
    missing.
    """
    from safetensors.torch import save

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # clone: views and tensors that share memory are each written in full
    content = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(save(content, metadata={"format": FORMAT, "facts": json.dumps(dict(facts))}))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


def load_checkpoint(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts of a checkpoint.

    Raises
    ------
    FileNotFoundError : there is no such file.
    CheckpointError : the file is not a checkpoint of this package.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(message("checkpoint", str(path), "a file written by diffusion.fit"))
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        accepted = "a whole file written by diffusion.fit"
        raise CheckpointError(message("checkpoint", f"{path} ({error})", accepted)) from error
    if header.get("format") != FORMAT:
        got = f"{path} of format {header.get('format')!r}"
        raise CheckpointError(message("checkpoint", got, f"format {FORMAT!r}"))
    try:
        facts = json.loads(header["facts"])
    except (KeyError, json.JSONDecodeError, RecursionError):
        facts = None
    if not isinstance(facts, dict):
        raise CheckpointError(message("checkpoint", f"{path} without facts", "a file written by diffusion.fit"))
    return tensors, facts


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under names that start with `prefix/`."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def under_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those tensors whose name starts with `prefix/`, under the rest of the name."""
    start = f"{prefix}/"
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def load_into(module: torch.nn.Module, tensors: Mapping[str, Tensor], path: object) -> None:
    """Load a state dict, with an error that names the file if it belongs to another network."""
    try:
        module.load_state_dict(dict(tensors))
    except RuntimeError as error:
        got = f"{path}, of another network ({error})"
        raise CheckpointError(message("checkpoint", got, "a checkpoint of the same network")) from error
