"""What the options of several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from sdesolve.errors import message

__all__ = ["add_common", "add_data", "device_of", "positive", "seed"]


def add_common(command: argparse.ArgumentParser) -> None:
    """--seed, --device and --quiet."""
    command.add_argument("--seed", type=seed, default=0, help="of all randomness (default: %(default)s)")
    command.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ... (default: %(default)s)")
    command.add_argument("--quiet", action="store_true", help="no progress bar (default: with one)")


def add_data(command: argparse.ArgumentParser, trained: bool) -> None:
    """DATA and how to read it; `trained` says that a model knows the levels."""
    what = (
        "vectors (n, d) or images (n, h, w), (n, c, h, w), (n, h, w, c) in a .npy or .npz file, or a folder of images"
    )
    command.add_argument("data", type=Path, metavar="DATA", help=what)
    command.add_argument("--key", help="which array of a .npz file (default: the only one)")
    command.add_argument(
        "--channels",
        help="'first' or 'last' dimension of an image (default: the one that is 1 or 3; needed if both are)",
    )
    if not trained:
        levels = "values are whole numbers 0 .. LEVELS - 1 (default: 256 for 8-bit data, else real numbers)"
        command.add_argument("--levels", type=int, help=levels)


def device_of(name: str) -> torch.device:
    """
    Raises
    ------
    ValueError : there is no such device here.
    """
    try:
        one = torch.ones(1, device=name)
        one.item()  # which there is none of where nothing is computed, as on meta
        return one.device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(message("--device", f"{name} ({reason})", "a device of this machine", "Try cpu.")) from error


def positive(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"got {value}; accepted is at least 1")
    return value


def seed(text: str) -> int:
    """A whole number from 0 to 2^64 - 1, for argparse."""
    value = int(text)
    if not 0 <= value < 2**64:
        raise argparse.ArgumentTypeError(f"got {value}; accepted is 0 to 2^64 - 1")
    return value
