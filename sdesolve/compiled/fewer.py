"""The trajectories that are left on the way to a landing point, as a solve of their own.

A compiled step computes all trajectories of the batch: those that have arrived, and wait for the others, cost as much
as these. So when half of a large batch has arrived, the chunk ends, and the others go on as a smaller batch.
"""

from __future__ import annotations

from torch import Tensor

from sdesolve.compiled.weight import is_light
from sdesolve.loop import Loop
from sdesolve.start import Beginning

#: smallest batch of which parts go on alone, and the same for an ODE of few operations; what it costs to divide one is
#: worth some ten steps of these
LEAST, LEAST_LIGHT = 1024, 16384


def few(loop: Loop, start: Tensor, y0: Tensor) -> int:
    """From start and y0 on: at how many trajectories the rest of a stretch is theirs alone; 0 : never."""
    spec = loop.system.spec
    if loop.clock.lanes == 1 or spec.batch < LEAST or loop.watcher is not None or loop.at_landing is not None:
        return 0
    t0 = loop.to_state(start.expand(spec.batch))
    if loop.noise is None and spec.batch < LEAST_LIGHT and is_light(loop.system, loop.method, t0, y0):
        return 0
    return spec.batch // 2


def part_of_start(begin: Beginning, y: Tensor, lanes: Tensor) -> Beginning:
    """The start of some of the trajectories, which nothing reads any more, in tensors of the right shapes."""
    span = begin.span if begin.span.shape[0] == 1 else begin.span[lanes]
    return begin._replace(y0=y, span=span)
