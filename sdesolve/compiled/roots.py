"""The cells of a window by a compiled descent: tens of levels for each trajectory, before the first step."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sdesolve.brownian.bridge_loop import descend
from sdesolve.brownian.counter import Key, Names
from sdesolve.brownian.levy import Normals
from sdesolve.brownian.window import Source, Window
from sdesolve.compiled.graphs import graph, mark_batch


class _Inputs(NamedTuple):
    key: Key
    names: Names
    which: Tensor
    levels: Tensor


def find_table(window: Window) -> None:
    """Compute the window's table, unless that is done."""
    if not window.count or window.has_table:
        return
    source, level = window.source, window.level
    assert isinstance(level, int)
    rows = window.cells
    # two that are the halves of one
    halves = window.count == 2 and level > 0 and not bool((window.first & 1).any())
    rows = rows[:1] if halves else rows
    index = rows.expand(len(rows), source.width)
    flat = lambda x: x.expand(index.shape).flatten()
    names = flat(source.names[0]), flat(source.names[1])
    given = _Inputs(source.key, names, flat(index), torch.tensor(level))
    mark_batch([*names, given.which])
    found = graph(("roots", source.dtype), _find, index.device)(source.dtype, given)
    cell, beside = (Normals(*(x.reshape(index.shape) for x in three)) for three in (found[:3], found[3:]))
    window.table = Normals(*(torch.cat(pair) for pair in zip(cell, beside, strict=True))) if halves else cell


def _find(dtype: torch.dtype, given: _Inputs) -> tuple[Tensor, ...]:
    source = Source(given.key, given.names, dtype)
    cell, beside = descend(source.cells(given.which >> given.levels), source.nodes, given.which, given.levels)
    return (*cell, *beside)
