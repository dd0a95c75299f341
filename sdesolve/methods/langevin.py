"""Methods for underdamped Langevin dynamics, :class:`sdesolve.Langevin`.

dx = v dt,      dv = (F(x) - gamma v) dt + sigma dW,      sigma = sqrt(2 gamma T)

The splittings compose the exact flows of  A: dx = v dt,  B: dv = F(x) dt  and  O: dv = -gamma v dt + sigma dW, which
over a time h takes v to

    exp(-gamma h) v + sqrt(T (1 - exp(-2 gamma h))) xi,      xi standard normal.

The force is evaluated through the drift at rest, which is (0, F(x)). All formulas hold for steps back in time (h < 0),
along the path read backwards; steps of the splittings are then undone exactly.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from sdesolve.langevin import Langevin, root
from sdesolve.methods.method import Increments, Method, State, Step
from sdesolve.methods.phi import phi
from sdesolve.system import System

_ROOT_3 = math.sqrt(3)


class LangevinMethod(Method):
    """What the methods share: the problem, and unless they say otherwise orders, and a force that is kept for the next
    step."""

    problem, made_for = "sde", "Langevin"
    calculus, noise, additive_only = ("ito", "stratonovich"), ("diagonal",), True
    order = order_additive = 1.0
    weak_order = weak_order_additive = 2.0
    first_evaluations = drift_evaluations = 1

    def init(self, system: System, t: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        return (_force(system, t, _halves(y)[0]),) if self.first_evaluations else ()


class Baoab(LangevinMethod):
    """B(h/2) A(h/2) O(h) A(h/2) B(h/2), with xi = W / sqrt(h):

    p = v + h/2 F(x),      q = x + h/2 p,      p' = exp(-gamma h) p + sqrt(T (1 - exp(-2 gamma h))) xi,
    x_1 = q + h/2 p',      v_1 = p' + h/2 F(x_1)

    Strong order 1, weak order 2. One evaluation of the force a step. For a quadratic potential x has the right
    stationary law, whatever the step.
    """

    name = "baoab"
    source = "Leimkuhler & Matthews 2013, Appl. Math. Res. Express 2013:34"

    def step(self, system: System, state: State, inc: Increments, *, error: bool = False, dense: bool = False) -> Step:
        (x, v), (force,), h = _halves(state.y), state.cache, inc.h
        damp, spread = _friction(system, state.y, h)
        v = v + 0.5 * h * force
        x = x + 0.5 * h * v
        v = damp * v + spread * _noise(inc.w, state.y)
        x1 = x + 0.5 * h * v
        force1 = _force(system, inc.t1, x1)
        return Step(State(torch.cat([x1, v + 0.5 * h * force1], -1), (force1,)))


class Obabo(LangevinMethod):
    """O(h/2) B(h/2) A(h) B(h/2) O(h/2), with independent increments W/2 + sqrt(3) H and W/2 - sqrt(3) H in the two O:
    those of the halves of the path are  W/2 +- (3/2 H + ...).

    p = exp(-gamma h/2) v + sqrt(T (1 - exp(-gamma h))) xi + h/2 F(x),      x_1 = x + h p,
    v_1 = exp(-gamma h/2) (p + h/2 F(x_1)) + sqrt(T (1 - exp(-gamma h))) xi'

    Strong order 1, weak order 2. One evaluation of the force a step.
    """

    name, levy = "obabo", "space-time"
    source = "Bussi & Parrinello 2007, Phys. Rev. E 75:056707"

    def step(self, system: System, state: State, inc: Increments, *, error: bool = False, dense: bool = False) -> Step:
        (x, v), (force,), h = _halves(state.y), state.cache, inc.h
        half, area = 0.5 * _noise(inc.w, state.y), _ROOT_3 * _noise(inc.H, state.y)
        damp, spread = _friction(system, state.y, 0.5 * h)
        v = damp * v + spread * (half + area) + 0.5 * h * force
        x1 = x + h * v
        force1 = _force(system, inc.t1, x1)
        v1 = damp * (v + 0.5 * h * force1) + spread * (half - area)
        return Step(State(torch.cat([x1, v1], -1), (force1,)))


class Quicsort(LangevinMethod):
    """The path is replaced by a jump of H + 6 K, a line that rises by D = W - 12 K, and a jump of 6 K - H, which has
    the same W, H and K. Between the jumps stands an ODE, with forces at Gauss's nodes c = (3 -+ sqrt(3))/6:

    u   = v + sigma (H + 6 K),      E(s) = exp(-gamma s),      a(s) = int_0^s E,      b(s) = int_0^s a
    x'  = x + a(c h) u + b(c h) sigma D/h,                          f'  = F(x')
    x'' = x + a(c' h) u + b(c' h) sigma D/h + a(h/3) h f',          f'' = F(x'')        (c' = 1 - c)
    x_1 = x + a(h) u + b(h) sigma D/h + h/2 (a(c' h) f' + a(c h) f'')
    v_1 = E(h) u + a(h) sigma D/h + h/2 (E(c' h) f' + E(c h) f'') - sigma (H - 6 K)

    Strong order 3 where the third derivative of the force is bounded. Two evaluations of the force a step.
    """

    name, levy = "quicsort", "space-time-time"
    order = order_additive = 3.0
    weak_order = weak_order_additive = 3.0
    first_evaluations, drift_evaluations = 0, 2
    source = "Scott, O'Kane, Jelincic & Foster 2025, arXiv:2508.16485; Foster, Lyons & Oberhauser 2101.03446"

    def step(self, system: System, state: State, inc: Increments, *, error: bool = False, dense: bool = False) -> Step:
        (x, v), h = _halves(state.y), inc.h
        gamma, heat = _coefficients(system, state.y)
        sigma = (2 * gamma).sqrt() * heat
        area, twist = _noise(inc.H, state.y), 6 * _noise(inc.K, state.y)
        first, second, whole, third = _flows(gamma * h)
        u = v + sigma * (area + twist)
        line = sigma * (_noise(inc.w, state.y) - 2 * twist)

        f = _force(system, inc.t0, x + h * (first.a * u + first.b * line))
        f2 = _force(system, inc.t0, x + h * (second.a * u + second.b * line + third.a * (h * f)))
        x1 = x + h * (whole.a * u + whole.b * line + 0.5 * h * (second.a * f + first.a * f2))
        v1 = whole.E * u + whole.a * line + 0.5 * h * (second.E * f + first.E * f2) - sigma * (area - twist)
        return Step(State(torch.cat([x1, v1], -1)))


class _Flow(NamedTuple):
    """Free motion with friction for a part s of the step: E(s h), a(s h) / h and b(s h) / h^2."""

    E: Tensor
    a: Tensor
    b: Tensor


def _flows(gamma_h: Tensor) -> list[_Flow]:
    """Up to the two nodes, over the whole step and over a third of it."""
    parts = ((3 - _ROOT_3) / 6, (3 + _ROOT_3) / 6, 1.0, 1 / 3)
    z = torch.stack([-s * gamma_h for s in parts])
    rows = zip(parts, z.exp().unbind(), *(value.unbind() for value in phi(z, 2)), strict=True)
    return [_Flow(E, s * phi1, s * s * phi2) for s, E, phi1, phi2 in rows]


def _halves(y: Tensor) -> tuple[Tensor, Tensor]:
    """Positions and velocities."""
    x, v = y.chunk(2, -1)
    return x, v


def _noise(part: Tensor | None, y: Tensor) -> Tensor:
    """What drives the velocities."""
    assert part is not None
    return _halves(part.reshape(y.shape))[1]


def _force(system: System, t: Tensor, x: Tensor) -> Tensor:
    """F(x), in memory of its own, as what loops carry has to be."""
    return _halves(system.drift(t, torch.cat([x, torch.zeros_like(x)], -1)))[1].contiguous()


def _friction(system: System, y: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """exp(-gamma h), and sqrt(T (1 - exp(-2 gamma h)) / h), which increments are multiplied by."""
    gamma, heat = _coefficients(system, y)
    rests = h == 0
    rate = torch.where(rests, 2 * gamma, -torch.expm1(-2 * gamma * h) / torch.where(rests, 1.0, h))
    return (-gamma * h).exp(), heat * rate.sqrt()


def _coefficients(system: System, y: Tensor) -> tuple[Tensor, Tensor]:
    """gamma and the root of the temperature: 0-d, or flat as x is inside."""
    problem, spec = system.problem, system.spec
    assert isinstance(problem, Langevin)
    shape = spec.leaves[0]
    one = shape[1:] if spec.batched else shape

    def flat(value: Tensor) -> Tensor:
        if value.ndim == 0:
            return value
        if value.ndim > len(one):  # one for each trajectory
            return value.expand(value.shape[0], *one).reshape(value.shape[0], -1)
        return value.expand(one).reshape(-1)

    return flat(problem.coefficient("gamma", y)), flat(root(problem.coefficient("temperature", y)))


LANGEVIN = (Baoab(), Obabo(), Quicsort())
