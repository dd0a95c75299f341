"""What a Brownian path accepts as shape, trajectory ids and cells."""

import math
import operator
from collections.abc import Sequence

import torch
from torch import Tensor

from sdesolve.brownian.counter import MAX_CELL, MAX_CHANNELS, MAX_PATH
from sdesolve.errors import message


def checked_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """`shape` as a tuple `(batch, *channels)` of ints; ValueError for anything else."""
    accepted = "(batch, *channels), integers of at least 0"
    try:
        sizes = tuple(operator.index(size) for size in shape)
    except TypeError:
        raise ValueError(message("shape", repr(shape), accepted)) from None
    if not sizes or min(sizes) < 0:
        raise ValueError(message("shape", repr(shape), accepted))
    if math.prod(sizes[1:]) > MAX_CHANNELS:
        raise ValueError(message("shape", repr(shape), f"at most {MAX_CHANNELS} channels a trajectory"))
    return sizes


def checked_ids(paths: Sequence[int] | Tensor | None, batch: int, device: torch.device | str | None) -> Tensor:
    """Trajectory ids, int64 `(batch,)`; ValueError unless they are different integers in [0, 2^32)."""
    if paths is None:
        return torch.arange(batch, dtype=torch.int64, device=device)
    ids = checked_integers("paths", paths, device)
    if ids.shape[0] != batch:
        raise ValueError(message("paths", f"{ids.shape[0]} ids", f"one id for each of {batch} trajectories"))
    if batch:
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= MAX_PATH:
            raise ValueError(message("paths", f"ids from {low} to {high}", "ids in [0, 2**32)"))
        values, counts = torch.unique(ids, return_counts=True)
        if bool((counts > 1).any()):
            got = f"id {int(values[counts > 1][0])} more than once"
            raise ValueError(message("paths", got, "different ids", "Equal ids would have equal noise."))
    return ids


def checked_integers(name: str, values: Sequence[int] | Tensor, device: torch.device | str | None) -> Tensor:
    """`values` as an int64 tensor `(K,)` of its own; ValueError unless they are a sequence of integers."""
    error = ValueError(message(name, repr(values), "a one-dimensional sequence or tensor of integers"))
    try:
        tensor = values if isinstance(values, Tensor) else torch.as_tensor(list(values) or torch.arange(0))
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise error from None
    whole = not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)
    if tensor.ndim != 1 or not whole:
        raise error
    return tensor.to(device=device, dtype=torch.int64, copy=True)


def refuse_cells_out_of_range(low: int, high: int) -> None:
    """ValueError if cells from `low` to `high` have no counter."""
    if low < -MAX_CELL or high >= MAX_CELL:
        advice = "Use a larger cell, or an origin closer by."
        raise ValueError(message("cells", f"cells from {low} to {high}", "cells in [-2**33, 2**33)", advice))
