"""Platen's explicit method of weak order 2.

With Y = y + f h + sum_k g_k W_k,  R^k = y + f h +- g_k sqrt(h)  and  U^j = y +- g_j sqrt(h), f and g at (t, y):

y_1 = y + 1/2 (f(Y) + f) h
        + 1/4 sum_k [g_k(R^k_+) + g_k(R^k_-) + 2 g_k + sum_{j != k} (g_k(U^j_+) + g_k(U^j_-) - 2 g_k)] W_k
        + 1/2 sum_k [(g_k(R^k_+) - g_k(R^k_-)) I_kk + sum_{j != k} (g_k(U^j_+) - g_k(U^j_-)) I_jk] / sqrt(h)

Stages with f h stand at t_1, those without at t. I_kk = (W_k^2 - h)/2 and I_jk = W_j W_k/2 + A_jk.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sdesolve.methods.iterated_integrals import mixed, others, root_of, squares
from sdesolve.methods.method import Increments, Method, State, Step
from sdesolve.system import System


class Platen(Method):
    """Weak order 2, and along the path strong order 1; Ito, any noise.

    Published with two-point variables in the place of 2 A_jk, which have its mean 0 and variance h^2. Terms that hold
    an area hold no other random number, so these moments are all that weak order 2 asks of it. As a function of the
    path it gives strong order 1 as well: y_1 lacks terms of order h^(3/2) with a mean of order h^3.

    For diagonal noise g_k reads component k of y alone, and all components are shifted at once: the terms with U
    vanish, as for scalar noise, and no areas are asked for. For additive noise g_k(R) and g_k(U) are g_k at t_1 and t.
    """

    name, problem = "platen", "sde"
    order, weak_order = 1.0, 2.0
    calculus, noise, levy = ("ito",), ("diagonal", "scalar", "general"), "davie-foster"
    levy_mixed_only = True
    drift_evaluations, diffusion_evaluations = 2, 3
    general_diffusion_evaluations, additive_diffusion_evaluations = (1, 4), 2
    source = "Kloeden & Platen 1992, (15.1.3)"

    def step(self, system: System, state: State, inc: Increments, *, error: bool = False, dense: bool = False) -> Step:
        y, h, w = state.y, inc.h, inc.w
        assert w is not None
        f, g = system.drift(inc.t0, y), system.diffusion(inc.t0, y)
        ahead, noise = y + h * f, system.noise_term(g, w)
        y1 = y + 0.5 * h * (f + system.drift(inc.t1, ahead + noise)) + 0.5 * noise
        if system.additive:
            return Step(State(y1 + 0.5 * system.noise_term(system.diffusion(inc.t1, y), w)))
        root, divisor = root_of(h)
        up, down = (self._shifted(system, inc.t1, ahead, g, signed) for signed in (root, -root))
        y1 = y1 + 0.25 * system.noise_term(up + down, w)
        y1 = y1 + 0.5 * system.noise_term(up - down, squares(w, root, divisor))
        if system.noise == "general" and w.shape[-1] > 1:
            y1 = y1 + self._mixed(system, inc, y, g)
        return Step(State(y1))

    def _shifted(self, system: System, t: Tensor, y: Tensor, g: Tensor, root: Tensor) -> Tensor:
        """g_k(y + g_k root) for all k."""
        if system.noise != "general":
            return system.diffusion(t, y + root * g)
        columns = [system.diffusion(t, y + root * g[..., k])[..., k] for k in range(g.shape[-1])]
        return torch.stack(columns, -1)

    def _mixed(self, system: System, inc: Increments, y: Tensor, g: Tensor) -> Tensor:
        """The terms with g_k(U^j), j != k."""
        w = inc.w
        assert w is not None
        root, divisor = root_of(inc.h)
        integrals, total = mixed(inc, divisor), torch.zeros_like(y)
        for j in range(w.shape[-1]):
            shift, apart = root * g[..., j], others(w, j)
            up, down = system.diffusion(inc.t0, y + shift), system.diffusion(inc.t0, y - shift)
            total = total + 0.25 * system.noise_term(up + down - 2 * g, w * apart)
            total = total + 0.5 * system.noise_term(up - down, integrals[..., j, :])
        return total


PLATEN = Platen()
