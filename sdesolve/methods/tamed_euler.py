"""Tamed Euler-Maruyama:  y_1 = y + h f / (1 + h |f|) + g dW,  |f| the Euclidean norm of a trajectory's f(t, y)."""

from __future__ import annotations

import torch

from sdesolve.methods.method import Increments, Method, State, Step
from sdesolve.system import System


class TamedEuler(Method):
    """Strong order 1/2 (1 for additive noise), weak order 1; Ito, any noise. For drifts that grow faster than linearly,
    as y - y^3 does, where moments of Euler-Maruyama grow without bound: a step of the drift is shorter than 1.
    """

    name, problem = "tamed_euler", "sde"
    order, order_additive, weak_order = 0.5, 1.0, 1.0
    calculus, noise = ("ito",), ("diagonal", "scalar", "general")
    drift_evaluations, diffusion_evaluations = 1, 1
    source = "Hutzenthaler, Jentzen & Kloeden 2012, Ann. Appl. Probab. 22:1611, (4)"

    def step(self, system: System, state: State, inc: Increments, *, error: bool = False, dense: bool = False) -> Step:
        y, w, h, dims = state.y, inc.w, inc.h, system.spec.dims
        assert w is not None
        f = system.drift(inc.t0, y)
        size = torch.linalg.vector_norm(f, dim=dims, keepdim=True) if dims else f.abs()
        return Step(State(system.moved(y, h, f / (1 + h.abs() * size), system.diffusion(inc.t0, y), w)))


TAMED_EULER = TamedEuler()
