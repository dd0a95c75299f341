"""Milstein's method.

y_1 = y + f h + sum_k g_k W_k + 1/2 sum_jk (dg_k/dy g_j) (W_j W_k - delta_jk h),     without delta_jk h in Stratonovich,

over the columns g_k of the diffusion, with f and g at (t, y). The derivatives are taken in forward mode, or by
differences along the step,

(dg_k/dy) g_j ~ (g_k(t, y + f h + sqrt(h) g_j) - g_k(t, y)) / sqrt(h)      in Ito,
(dg_k/dy) g W ~ g_k(t, y + g W) - g_k(t, y)                                in Stratonovich.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sdesolve.errors import message
from sdesolve.methods.method import Increments, Method, State, Step
from sdesolve.system import System

DERIVATIVES = ("autodiff", "difference")


class Milstein(Method):
    """Strong order 1, weak order 1; diagonal, scalar, and commutative (so additive) general noise.

    Parameters
    ----------
    derivative : ``"autodiff"``, in forward mode; ``"difference"``, for a diffusion that has none, and fixed steps. A
        derivative along a direction is one more evaluation of g: two evaluations a step in all. For general noise with
        m columns in the Ito calculus it takes one along each column, 1 + m in all.

    The error is the difference to the trapezoidal corrector, f_1 and g_1 at (t_1, y_1):
    1/2 (f_1 - f) h + 1/2 (g_1 - g) W - 1/2 sum_jk (dg_k/dy g_j) W_j W_k.

    Raises
    ------
    ValueError : another ``derivative``.
    """

    problem = "sde"
    order, weak_order = 1.0, 1.0
    error_order: float | None = 1.5
    calculus, noise = ("ito", "stratonovich"), ("diagonal", "scalar", "general")
    commutative_only = True
    drift_evaluations, diffusion_evaluations = 1, 2
    general_diffusion_evaluations = 1, 1
    error_drift_evaluations, error_diffusion_evaluations = 1, 1

    def __init__(self, derivative: str = "autodiff") -> None:
        if derivative not in DERIVATIVES:
            raise ValueError(message("derivative", repr(derivative), " or ".join(map(repr, DERIVATIVES))))
        self.derivative = derivative
        if derivative == "difference":
            # what a difference leaves is a multiple of W^2 - h, of mean 0 in steps whose length does not depend on W
            self.error_order = None
        self.name = "milstein" if derivative == "autodiff" else "derivative_free_milstein"
        self.source = (
            "Milstein 1975; Kloeden & Platen 1992, (10.3.1), (10.3.17)"
            if derivative == "autodiff"
            else "Platen 1984; Kloeden & Platen 1992, (11.1.3), (11.1.10)"
        )

    def evaluations_of_diffusion(self, system: System, channels: int, *, error: bool = False) -> int:
        return derivative_evaluations(self, system, channels, error)

    def step(self, system: System, state: State, inc: Increments, *, error: bool = False, dense: bool = False) -> Step:
        y, h, w = state.y, inc.h, inc.w
        assert w is not None
        f, g = system.drift(inc.t0, y), system.diffusion(inc.t0, y)
        noise = system.noise_term(g, w)
        square, trace = derivative_terms(system, inc, y, g, None if self.derivative == "autodiff" else f)
        y1 = y + h * f + noise + 0.5 * square
        if trace is not None:
            y1 = y1 - (0.5 * h) * trace
        if not error:
            return Step(State(y1))
        f1, noise1 = system.drift(inc.t1, y1), system.noise_term(system.diffusion(inc.t1, y1), w)
        return Step(State(y1), 0.5 * (h * (f1 - f) + (noise1 - noise) - square))


def derivative_terms(
    system: System, inc: Increments, y: Tensor, g: Tensor, f: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """sum_jk (dg_k/dy g_j) W_j W_k  and, in the Ito calculus,  sum_k dg_k/dy g_k. f : of the drift, for differences;
    None: in forward mode."""
    w = inc.w
    assert w is not None
    if system.calculus == "stratonovich":
        return system.noise_term(_along_noise(system, inc, y, g, f), w), None
    if system.noise != "general":
        slope = _along(system, inc, y, g, f, g)
        return system.noise_term(slope, w * w), slope
    slopes = [_along(system, inc, y, g, f, g[..., j]) for j in range(g.shape[-1])]
    square, trace = system.noise_term(slopes[0], w[..., :1] * w), slopes[0][..., 0]
    for j, slope in enumerate(slopes[1:], 1):
        square = square + system.noise_term(slope, w[..., j : j + 1] * w)
        trace = trace + slope[..., j]
    return square, trace


def derivative_evaluations(method: Method, system: System, channels: int, error: bool) -> int:
    """Evaluations of the diffusion by a method with these terms: in the Stratonovich calculus the derivative along g W
    serves all columns."""
    return Method.evaluations_of_diffusion(method, system, channels if system.calculus == "ito" else 1, error=error)


def _along(system: System, inc: Increments, y: Tensor, g: Tensor, f: Tensor | None, direction: Tensor) -> Tensor:
    """(dg/dy) direction."""
    if f is None:
        return derivative_along(system, inc.t0, y, direction)
    # never 0: over a step of length 0 nothing moves
    root = torch.where(inc.h == 0, 1.0, inc.h.abs()).sqrt()
    change = system.diffusion(inc.t0, y + inc.h * f + root * direction) - g
    return change / (root[..., None] if system.noise == "general" and root.ndim else root)


def _along_noise(system: System, inc: Increments, y: Tensor, g: Tensor, f: Tensor | None) -> Tensor:
    """(dg/dy) g W. Its difference is that over g W itself: what it leaves out is odd in W, so has mean 0 behind the
    product with W, which a difference over sqrt(h) g has not."""
    assert inc.w is not None
    noise = system.noise_term(g, inc.w)
    return derivative_along(system, inc.t0, y, noise) if f is None else system.diffusion(inc.t0, y + noise) - g


def derivative_along(system: System, t: Tensor, y: Tensor, direction: Tensor) -> Tensor:
    """(dg/dy) direction, in forward mode, of g's full shape."""

    def g(state: Tensor) -> Tensor:
        found = system.diffusion(t, state)
        return found.expand(*y.shape, found.shape[-1]) if system.noise == "general" else found.expand(y.shape)

    # tangents are written into the layout of what they belong to, in which expanded elements would overlap
    point, tangent = y.contiguous(), direction.expand(y.shape).contiguous()
    slope: Tensor = torch.func.jvp(lambda state: g(state).clone(), (point,), (tangent,))[1]
    return slope


MILSTEIN, DERIVATIVE_FREE_MILSTEIN = Milstein(), Milstein("difference")
