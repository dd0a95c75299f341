"""Words for where something was found."""

from __future__ import annotations

from math import prod

import torch
from torch.utils import _pytree as pytree

from sdesolve.state import StateSpec
from sdesolve.testing.functions import Function


def where(function: Function) -> str:
    """At which time."""
    return f"at t = {function.time:g}"


def number(shape: tuple[int, ...], flat: int) -> tuple[int, ...]:
    """The index of the element with this number."""
    return tuple(int(i) for i in torch.unravel_index(torch.tensor(flat), shape))


def component(spec: StateSpec, index: tuple[int, ...], columns: bool) -> str:
    """An element of a function's value: its component, its trajectory, and its column if it has one."""
    lane = f" of trajectory {index[0]}" if spec.batched else ""
    inner = index[1:] if spec.batched else index
    rank = len(spec.per_trajectory)
    column = f", column {inner[rank]}," if columns and len(inner) > rank else ""
    return component_of(spec, inner[:rank]) + lane + column


def component_of(spec: StateSpec, index: tuple[int, ...]) -> str:
    """A component of one trajectory, as the user has it: by its leaf if the state is a pytree."""
    if spec.tree is None:
        return f"component {index}"
    left = index[0]
    paths, _ = pytree.tree_flatten_with_path(pytree.tree_unflatten(list(range(len(spec.leaves))), spec.tree))
    for (path, _), leaf in zip(paths, spec.leaves, strict=True):
        shape = leaf[1:] if spec.batched else leaf
        if left < prod(shape):
            return f"component {number(shape, left)} of leaf {pytree.keystr(path)}"
        left -= prod(shape)
    raise IndexError(index)
