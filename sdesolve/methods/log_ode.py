"""The log-ODE method:  y_1 = u(1) of  u' = h f(u) + sum_k W_k g_k(u) + sum_{j<k} A_jk [g_j, g_k](u),  u(0) = y,

over the columns g_k of the diffusion, with the Levy areas A_jk between their Brownian motions and the Lie brackets
[g_j, g_k] = (dg_k/dy) g_j - (dg_j/dy) g_k. As A is antisymmetric, the last sum is

    B(y) = sum_k (dg_k/dy) d_k,      d_k = sum_j A_jk g_j,

one derivative of g along a direction for each column. The ODE takes one step of Heun's method, with B at y alone:

    z   = y + h f(t, y) + g(t, y) W + B(y)
    y_1 = y + 1/2 h (f(t, y) + f(t_1, z)) + 1/2 (g(t, y) + g(t_1, z)) W + B(y)

What B changes over a step is of order h^(3/2) and odd in (W, A), so of mean h^2, as is what Heun's method leaves.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sdesolve.methods.method import Increments, Method, State, Step
from sdesolve.methods.milstein import derivative_along
from sdesolve.system import System


class LogODE(Method):
    """Strong order 1 for general noise, commutative or not; weak order 1, 2 for additive noise; Stratonovich.

    Two evaluations of g and one along a direction for each of its m columns, 2 + m in all. Additive noise has no
    brackets, and asks for no areas.

    The error is the difference to the step without areas and corrector,  y_1 - (y + h f + g W).
    """

    name, problem = "log_ode", "sde"
    order, weak_order, weak_order_additive, error_order = 1.0, 1.0, 2.0, 1.0
    calculus, noise, levy, levy_mixed_only = ("stratonovich",), ("general",), "davie-foster", True
    drift_evaluations, diffusion_evaluations, general_diffusion_evaluations = 2, 3, (2, 1)
    additive_diffusion_evaluations = 2
    source = "Foster 2020, thesis, section 3; Davie 2014, arXiv:1404.6401; Gaines & Lyons 1997, SIAM J. Appl. Math. 57"

    def step(self, system: System, state: State, inc: Increments, *, error: bool = False, dense: bool = False) -> Step:
        y, h, w = state.y, inc.h, inc.w
        assert w is not None
        f, g = system.drift(inc.t0, y), system.diffusion_in_full(inc.t0, y)
        bracket = torch.zeros_like(y) if system.additive else _bracket(system, inc, y, g)
        z = system.moved(y, h, f, g, w) + bracket
        f1, g1 = system.drift(inc.t1, z) - f, system.diffusion(inc.t1, z) - g
        change = 0.5 * (h * f1 + system.noise_term(g1, w))
        return Step(State(z + change), bracket + change if error else None)


def _bracket(system: System, inc: Increments, y: Tensor, g: Tensor) -> Tensor:
    """sum_k (dg_k/dy) sum_j A_jk g_j."""
    assert inc.area is not None
    m = g.shape[-1]
    total = y.new_zeros(())
    for k in range(m):
        direction = system.noise_term(g, inc.area[..., k])
        total = total + derivative_along(system, inc.t0, y, direction)[..., k]
    return total


LOG_ODE = LogODE()
