"""A prototype for the loop's contract: a diagonally implicit step with Newton iterations.

SDIRK2 (Alexander 1977), gamma = 1 - 1/sqrt(2):  k_1 = f(t + gamma h, y + gamma h k_1),
k_2 = f(t + h, y + (1 - gamma) h k_1 + gamma h k_2),  y_1 = y + h ((1 - gamma) k_1 + gamma k_2), stiffly accurate;
error against  y + h k_1,  of order 1. The Jacobian travels in the cache.
"""

import math

import torch
from torch import Tensor

from sdesolve.methods.method import Increments, Method, State, Step
from sdesolve.system import System

GAMMA = 1 - 1 / math.sqrt(2)


class SDIRK2(Method):
    name, problem, source = "sdirk2", "ode", "Alexander 1977"
    order, error_order = 2, 2
    drift_evaluations = 0

    def __init__(self, iterations: int = 8) -> None:
        self.iterations = iterations

    def jacobian(self, system: System, t: Tensor, y: Tensor) -> Tensor:
        """(batch, n, n) of trajectories that do not read each other."""
        _, pull = torch.func.vjp(lambda z: system.drift(t, z), y)
        rows = torch.eye(y.shape[1], dtype=y.dtype, device=y.device)
        return torch.stack([pull(row.expand_as(y))[0] for row in rows], 1)

    def init(self, system: System, t: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        return (self.jacobian(system, t, y),)

    def newton(
        self, system: System, t: Tensor, base: Tensor, h: Tensor, factors: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor]:
        """k = f(t, base + gamma h k), and which trajectories found it."""
        k = torch.zeros_like(base)
        for _ in range(self.iterations):
            residual = k - system.drift(t, base + GAMMA * h * k)
            change = torch.linalg.lu_solve(*factors, residual[..., None])[..., 0]
            k = k - change
        size = (change * h).abs().amax(1)
        return k, ~(size <= 1e-3 * torch.finfo(k.dtype).eps ** 0.5 * (1 + base.abs().amax(1)))

    def step(self, system: System, state: State, inc: Increments, *, error: bool = False, dense: bool = False) -> Step:
        y, h = state.y, inc.h
        eye = torch.eye(y.shape[1], dtype=y.dtype, device=y.device)
        lu, pivots, _ = torch.linalg.lu_factor_ex(eye - GAMMA * h[..., None] * state.cache[0])
        k1, lost1 = self.newton(system, inc.t0 + GAMMA * h, y, h, (lu, pivots))
        k2, lost2 = self.newton(system, inc.t1, y + (1 - GAMMA) * h * k1, h, (lu, pivots))
        y1 = y + h * ((1 - GAMMA) * k1 + GAMMA * k2)
        jacobian = self.jacobian(system, inc.t1, y1)
        return Step(State(y1, (jacobian,)), h * GAMMA * (k2 - k1), lost1 | lost2)
