"""Names for the steps of a fixed-step solve: each step draws its own cell of noise, no bridge needed."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdesolve.brownian.counter import MAX_CELL, MAX_OFF_GRID_CELL
from sdesolve.errors import message

_TOLERANCE = 2.0**-10


def step_cells(
    starts: ArrayLike, steps: ArrayLike, dt: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Cell and tick that name the noise of each step of a fixed-step solve.

    With s = start / dt::

        regular:   |step / dt - 1| < 2^-10  and  |s - round(s)| < 2^-10
                   cell = round(s), tick = 0                                 noise: `cell_normals`
        off-grid:  every other step
                   cell 2^32 + tick = round(2^32 s), 0 <= tick < 2^32        noise: `off_grid_normals`

    A step's name depends on that step alone, so a solve that is split at a step and continued, or run
    backwards, meets the same noise. Names are rounded to nearest, so that a start that differs in its last
    bits keeps its name: the edges between names are odd multiples of 2^-33, where the likes of s = 1/2 do
    not lie.

    No two steps of one solve share a name, provided that they do not overlap, that |s| <= S and that off-grid
    steps are longer than (2^-32 + 2^-51 S) dt. Proof. Take two steps with lower ends s1 < s2 in units of dt.

    - Regular and off-grid steps draw from different streams.
    - Both regular: s2 >= s1 + 1 - 2^-10. If both rounded to one integer, their distance would be below 2^-9.
    - Both off-grid: x = 2^32 s is exact in binary once s is computed, with a relative error up to 2^-53, so
      x2 > x1 + 1. Then round(x2) > round(x1): rounding (ties to even) is monotone, two numbers that round to
      the same integer lie in one interval of length 1.

    Parameters
    ----------
    starts
        Lower time end of each step (also of backward steps), any shape.
    steps
        Positive lengths of the steps, broadcasting with `starts`.
    dt
        Positive nominal step: the unit of the grid.

    Returns
    -------
    `(cells, ticks, regular)`: int64, int64 and bool arrays of the common shape.

    Raises
    ------
    ValueError
        If `dt` or a length is not positive and finite, a start is not finite, or a step lies too many cells
        away from time zero to have a name of its own.
    """
    if not (np.isfinite(dt) and dt > 0):
        raise ValueError(message("dt", repr(dt), "a positive, finite step"))
    start, step = np.broadcast_arrays(np.asarray(starts, np.float64), np.asarray(steps, np.float64))
    finite, positive = np.isfinite(start), np.isfinite(step) & (step > 0)
    if not finite.all():
        raise ValueError(message("starts", _first(start, ~finite), "finite times"))
    if not positive.all():
        raise ValueError(message("steps", _first(step, ~positive), "positive, finite lengths"))

    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is out of range, and reported as such
        s = start / dt
        nearest = np.rint(s)
        regular = (np.abs(step / dt - 1.0) < _TOLERANCE) & (np.abs(s - nearest) < _TOLERANCE)
    reach = np.where(regular, MAX_CELL, MAX_OFF_GRID_CELL)
    position = np.where(regular, nearest, s)
    inside = (position >= -reach) & (position < reach)
    if not inside.all():
        at, cell, most = _first(start, ~inside), _first(s, ~inside), int(_first(reach, ~inside))
        got = f"{dt!r} with a step at t = {at!r}, which is {cell:.6g} steps of dt away from t = 0"
        accepted = f"a dt such that every step has a cell of its own, within {most} of t = 0"
        raise ValueError(message("dt", got, accepted, "Use a larger dt, or shift the origin of time."))

    names = np.rint(np.where(regular, 0.0, s) * 2.0**32).astype(np.int64)
    cells = np.where(regular, nearest, 0.0).astype(np.int64) + (names >> 32)
    return cells, names & 0xFFFFFFFF, regular


def _first(values: NDArray[Any], where: NDArray[np.bool_]) -> float:
    return float(values[where].flat[0])
