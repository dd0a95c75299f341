"""Densities of one-dimensional SDEs, by finite volumes: an answer that no simulation has a part in.

For dx = f(t, x) dt + g(t, x) dw (Itô), with D = g^2 / 2:

    dp/dt = -dJ/dx,      J = f p - (D p)',      J = 0 at both ends

The masses of the cells change by the fluxes through their edges alone. Between cells 0 and 1, whose centres are h
apart, f, D and J are taken as constant, which gives (Scharfetter & Gummel 1969; the same as Chang & Cooper's of 1970),
with B(w) = w / (e^w - 1),

    J = (max(f, 0) + c) (D_0 / D) p_0 - (max(-f, 0) + c) (D_1 / D) p_1,      c = D B(w) / h,      w = |f| h / D

Mass flows from cell to cell at rates that are not negative, whatever f and D, and p ~ exp(int f / D) / D is at rest.
The error is of second order in the width of the cells while w is small, and of first where g is 0, as that of upwind
differences. `transported` is for equations without noise.

Steps in time are those of TR-BDF2, implicit, L-stable and of order two. No method of an order above one keeps every
density positive in steps of any length (Bolley & Crouzeix 1978). So what a step makes negative is cut off, and the rest
scaled to the mass that there was. That takes no density farther from a right one in L1: the mass cut off, e, goes off
the distance, and scaling adds e at most.

References
----------
Scharfetter & Gummel (1969). Large-signal analysis of a silicon Read diode oscillator. IEEE Transactions on Electron
Devices 16. Chang & Cooper (1970). A practical difference scheme for Fokker-Planck equations. Journal of Computational
Physics 6. Bank et al. (1985). Transient simulation of silicon devices and circuits. IEEE Transactions on Electron
Devices 32, for TR-BDF2. Bolley & Crouzeix (1978). Conservation de la positivité lors de la discrétisation des problèmes
d'évolution paraboliques. RAIRO Analyse numérique 12.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from scipy.linalg import solve_banded

Array = NDArray[np.float64]

Coefficient = Callable[[Array, Array], Array]
"""``f(t, x)`` for t of shape ``(m, 1)`` and x of shape ``(n,)``: values that broadcast to ``(m, n)``."""

GAMMA = 2 - 2**0.5
"""Where TR-BDF2 has its stage; this one makes the two linear systems of a step alike."""
BLOCK = 64
"""Steps whose coefficients are evaluated in one call."""


@dataclass(frozen=True)
class Cells:
    """Intervals between rising `edges` ``(n + 1,)``; the outer ones let nothing through."""

    edges: Array

    @staticmethod
    def graded(reach: float, count: int, core: float = 1.0) -> Cells:
        """From -reach to reach; of nearly equal widths within `core` of 0, and of widths that grow in proportion to |x|
        beyond: edges core sinh(k d)."""
        top = np.arcsinh(reach / core)
        return Cells(core * np.sinh(np.linspace(-top, top, count + 1)))

    @property
    def centres(self) -> Array:
        return 0.5 * (self.edges[1:] + self.edges[:-1])

    @property
    def widths(self) -> Array:
        return np.diff(self.edges)

    def masses(self, cdf: Callable[[Array], Array]) -> Array:
        """What a distribution has in each cell ``(n,)``; what it has beyond the outer edges goes into the outer
        cells."""
        inner = cdf(self.edges[1:-1])
        return np.diff(np.concatenate([[0.0], inner, [1.0]]))

    def cdf(self, masses: Array) -> Callable[[Array], Array]:
        """The distribution function of constant densities in the cells."""
        rising = np.concatenate([[0.0], np.cumsum(masses)])
        return lambda x: np.interp(x, self.edges, rising)


@dataclass(frozen=True)
class Densities:
    """ts : ``(T,)``. masses : of the cells, ``(T, n)``. cut : all the mass that was below zero and cut off. leak :
    greatest change of the mass by a step's rounding, before it was scaled back."""

    cells: Cells
    ts: Array
    masses: Array
    cut: float
    leak: float

    @property
    def values(self) -> Array:
        """Averages of the density over the cells, ``(T, n)``."""
        return self.masses / self.cells.widths


@dataclass(frozen=True)
class Rates:
    """Rates ``(..., n - 1)`` at which mass goes through the inner edges: `up` from the cell below, `down` from that
    above."""

    up: Array
    down: Array

    def change(self, masses: Array) -> Array:
        """d masses / dt."""
        flux = np.concatenate([[0.0], self.up * masses[:-1] - self.down * masses[1:], [0.0]])
        return flux[:-1] - flux[1:]

    def implicit(self, h: float, masses: Array) -> Array:
        """m of  m - h dm/dt = masses."""
        bands = np.zeros((3, len(masses)))
        bands[0, 1:], bands[2, :-1] = -h * self.down, -h * self.up
        bands[1] = 1 - np.concatenate([[0.0], bands[0, 1:]]) - np.concatenate([bands[2, :-1], [0.0]])
        return np.asarray(solve_banded((1, 1), bands, masses, overwrite_ab=True, check_finite=False), np.float64)


def rates(drift: Coefficient, diffusion: Coefficient, cells: Cells, t: Array, sign: float = 1.0) -> Rates:
    """At times t ``(m, 1)``. sign -1: of the equation read backwards in time."""
    inner, centres, widths = cells.edges[1:-1], cells.centres, cells.widths
    h, shape = np.diff(centres), (len(t), len(inner))
    f = np.broadcast_to(sign * drift(t, inner), shape)
    D = np.broadcast_to(0.5 * diffusion(t, inner) ** 2, shape)
    within = np.broadcast_to(0.5 * diffusion(t, centres) ** 2, (len(t), len(centres)))
    noisy = D > 0
    D = np.where(noisy, D, 1.0)
    w = np.abs(f) * h / D
    with np.errstate(over="ignore"):
        fitted = np.where(w > 1e-8, w / np.expm1(np.maximum(w, 1e-8)), 1 - w / 2)
    c = np.where(noisy, D * fitted / h, 0.0)
    below = np.where(noisy, within[:, :-1] / D, 1.0) / widths[:-1]
    above = np.where(noisy, within[:, 1:] / D, 1.0) / widths[1:]
    return Rates((np.maximum(f, 0) + c) * below, (np.maximum(-f, 0) + c) * above)


def fokker_planck(drift: Coefficient, diffusion: Coefficient, cells: Cells, masses: Array, ts: Array) -> Densities:
    """The masses of the cells at all of the times ts, with a step from each to the next.

    Parameters
    ----------
    drift, diffusion : f and g, see :data:`Coefficient`.
    masses : ``(n,)`` at ts[0], none negative.
    ts : rising or falling. Falling ones are those of an SDE that is solved backwards in time, such as the reverse SDE
        of a diffusion process: dw is then the increment of a Brownian motion that runs from ts[0] to ts[-1].
    """
    sign, total = float(np.sign(ts[-1] - ts[0])), float(masses.sum())
    kept, cut, leak = [masses], 0.0, 0.0
    for h, start, middle, end in _steps(drift, diffusion, cells, ts, sign):
        now = trbdf2(start, middle, end, h, kept[-1])
        leak = max(leak, abs(float(now.sum()) - total))
        positive = np.maximum(now, 0.0)
        cut += float((positive - now).sum())
        kept.append(positive * (total / positive.sum()))
    return Densities(cells, ts, np.stack(kept), cut, leak)


def trbdf2(start: Rates, middle: Rates, end: Rates, h: float, masses: Array) -> Array:
    """A step of length h: the trapezoidal rule up to GAMMA h, and from there BDF2."""
    stage = middle.implicit(GAMMA * h / 2, masses + (GAMMA * h / 2) * start.change(masses))
    both = (stage - (1 - GAMMA) ** 2 * masses) / (GAMMA * (2 - GAMMA))
    return end.implicit((1 - GAMMA) / (2 - GAMMA) * h, both)


def _steps(
    drift: Coefficient, diffusion: Coefficient, cells: Cells, ts: Array, sign: float
) -> Iterator[tuple[float, Rates, Rates, Rates]]:
    """Length and rates at the start, the stage and the end of each step."""
    for first in range(0, len(ts) - 1, BLOCK):
        ends = ts[first : first + BLOCK + 1]
        h = np.diff(ends)
        at = [rates(drift, diffusion, cells, t[:, None], sign) for t in (ends, ends[:-1] + GAMMA * h)]
        whole, stages = ([Rates(*pair) for pair in zip(each.up, each.down, strict=True)] for each in at)
        yield from zip(np.abs(h).tolist(), whole[:-1], stages, whole[1:], strict=True)


def transported(velocity: Coefficient, cells: Cells, ts: Array, tolerance: float = 1e-7) -> Array:
    """Edges ``(T, n + 1)`` of cells that move with dx/dt = f(t, x): the mass of each stays as it is.

    So the masses are conserved and positive, and nothing is smeared, which fixed cells would do. ts rise or fall.
    """
    found = solve_ivp(
        lambda t, x: velocity(np.array([[t]]), x)[0],
        (ts[0], ts[-1]),
        cells.edges,
        method="DOP853",
        t_eval=ts,
        rtol=tolerance,
        atol=tolerance,
    )
    if not found.success:
        raise RuntimeError(f"transported: {found.message}")
    return np.asarray(found.y.T, np.float64)
