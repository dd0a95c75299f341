"""Milstein's method.

y_1 = y + f h + sum_k g_k W_k + 1/2 sum_jk (dg_k/dy g_j) (W_j W_k - delta_jk h),     without delta_jk h in Stratonovich,

over the columns g_k of the diffusion, with f and g at (t, y).
"""

from __future__ import annotations

import torch
from torch import Tensor

from sdesolve.methods.method import Increments, Method, State, Step
from sdesolve.system import System


class Milstein(Method):
    """Strong order 1, weak order 1; diagonal, scalar, and commutative (so additive) general noise.

    The derivative along a direction is one more evaluation of g, in forward mode: two evaluations a step in all. For
    general noise with m columns in the Ito calculus it takes one along each column, 1 + m in all.

    The error is the difference to the trapezoidal corrector, f_1 and g_1 at (t_1, y_1):
    1/2 (f_1 - f) h + 1/2 (g_1 - g) W - 1/2 sum_jk (dg_k/dy g_j) W_j W_k.
    """

    name, problem = "milstein", "sde"
    order, weak_order, error_order = 1.0, 1.0, 1.5
    calculus, noise = ("ito", "stratonovich"), ("diagonal", "scalar", "general")
    commutative_only = True
    drift_evaluations, diffusion_evaluations = 1, 2
    error_drift_evaluations, error_diffusion_evaluations = 1, 1
    source = "Milstein 1975; Kloeden & Platen 1992, (10.3.1), (10.3.17)"

    def step(self, system: System, state: State, inc: Increments, *, error: bool = False, dense: bool = False) -> Step:
        y, h, w = state.y, inc.h, inc.w
        assert w is not None
        f, g = system.drift(inc.t0, y), system.diffusion(inc.t0, y)
        noise = system.noise_term(g, w)
        square, trace = derivative_terms(system, inc.t0, y, g, w)
        y1 = y + h * f + noise + 0.5 * square
        if trace is not None:
            y1 = y1 - (0.5 * h) * trace
        if not error:
            return Step(State(y1))
        f1, noise1 = system.drift(inc.t1, y1), system.noise_term(system.diffusion(inc.t1, y1), w)
        return Step(State(y1), 0.5 * (h * (f1 - f) + (noise1 - noise) - square))


def derivative_terms(system: System, t: Tensor, y: Tensor, g: Tensor, w: Tensor) -> tuple[Tensor, Tensor | None]:
    """sum_jk (dg_k/dy g_j) W_j W_k  and, in the Ito calculus,  sum_k dg_k/dy g_k."""
    ito = system.calculus == "ito"
    if system.noise != "general":
        slope = _along(system, t, y, g)
        return system.noise_term(slope, w * w), slope if ito else None
    if not ito:
        return system.noise_term(_along(system, t, y, system.noise_term(g, w)), w), None
    slopes = [_along(system, t, y, g[..., j]) for j in range(g.shape[-1])]
    square, trace = system.noise_term(slopes[0], w[..., :1] * w), slopes[0][..., 0]
    for j, slope in enumerate(slopes[1:], 1):
        square = square + system.noise_term(slope, w[..., j : j + 1] * w)
        trace = trace + slope[..., j]
    return square, trace


def _along(system: System, t: Tensor, y: Tensor, direction: Tensor) -> Tensor:
    """(dg/dy) direction, in forward mode, of g's full shape."""

    def g(state: Tensor) -> Tensor:
        found = system.diffusion(t, state)
        return found.expand(*y.shape, found.shape[-1]) if system.noise == "general" else found.expand(y.shape)

    # tangents are written into the layout of what they belong to, in which expanded elements would overlap
    point, tangent = y.contiguous(), direction.expand(y.shape).contiguous()
    slope: Tensor = torch.func.jvp(lambda state: g(state).clone(), (point,), (tangent,))[1]
    return slope


MILSTEIN = Milstein()
