"""A prototype for the loop's contract: adaptive steps of an additive SDE that use (W, H), on integer times.

The path is a table of (W, H) on all ticks of the lattice, so any lattice interval's (W, H) follows from sums over it,
exactly, also when the interval is a part of one that was rejected. The step is the shifted Euler method (Foster, dos
Reis & Strange 2210.17543, (5.8)):  y_1 = y + f(y + g (W/2 + H)) h + g W,  with Euler-Maruyama as the lower method.
"""

import torch
from torch import Tensor

from sdesolve.brownian.levy import Increment
from sdesolve.clock import ClockState, Proposal
from sdesolve.methods.method import Increments, Method, State, Step
from sdesolve.system import System


class LatticeClock:
    """Times are integers: ``ticks`` a unit of time, from 0 to ``units``; an output at every unit."""

    direction = 1.0

    def __init__(self, lanes: int, units: int, ticks: int) -> None:
        self.lanes, self.units, self.ticks, self.last = lanes, units, ticks, units

    def start(self) -> ClockState:
        return (torch.zeros(self.lanes, dtype=torch.int64),)

    def propose(self, state: ClockState, h: Tensor, active: Tensor) -> Proposal:
        (tick,) = state
        remaining = self.ticks - tick % self.ticks
        wanted = (h * self.ticks).to(torch.int64).clamp(min=1)
        count = torch.where(active, torch.minimum(wanted, remaining), torch.zeros_like(tick))
        length = count.to(h.dtype) / self.ticks
        t0, t1 = tick.to(h.dtype) / self.ticks, (tick + count).to(h.dtype) / self.ticks
        target = (tick // self.ticks + 1).clamp(max=self.units)
        return Proposal(t0, t1, length, active & (count == remaining), target, wanted > remaining, (tick, tick + count))

    def advance(self, state: ClockState, proposal: Proposal, accept: Tensor) -> ClockState:
        return (torch.where(accept, proposal.ticket[1], state[0]),)

    def position(self, state: ClockState) -> Tensor:
        return state[0] // self.ticks

    def finished(self, state: ClockState) -> Tensor:
        return state[0] >= self.units * self.ticks

    def least_step(self, state: ClockState) -> Tensor:
        return torch.full((self.lanes,), 1.0 / self.ticks, dtype=torch.float64)


class TablePath:
    """(W, H) over lattice intervals, from independent (W, H) on every tick: H_i ~ N(0, tick / 12)."""

    def __init__(self, lanes: int, units: int, ticks: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        n, self.tick = units * ticks, 1.0 / ticks
        w = torch.randn(n, lanes, generator=generator, dtype=torch.float64) * self.tick**0.5
        h = torch.randn(n, lanes, generator=generator, dtype=torch.float64) * (self.tick / 12) ** 0.5
        zero = torch.zeros(1, lanes, dtype=torch.float64)
        self.path = torch.cat([zero, w.cumsum(0)])
        # int W over a tick = tick (W_left + w/2 + h)
        self.integral = torch.cat([zero, (self.tick * (self.path[:-1] + w / 2 + h)).cumsum(0)])

    def __call__(self, proposal: Proposal) -> Increment:
        start, end = proposal.ticket
        at = lambda table, k: table.gather(0, k[None])[0]
        left = at(self.path, start)
        w, area = at(self.path, end) - left, at(self.integral, end) - at(self.integral, start)
        length = proposal.h.clamp(min=self.tick)
        bridge = area / length - left - w / 2
        return Increment(w[:, None], torch.where(proposal.h > 0, bridge, 0.0)[:, None])


class ShiftedEuler(Method):
    name, problem, source = "shifted_euler", "sde", "Foster, dos Reis & Strange 2210.17543, (5.8)"
    order, error_order = 1.0, 1.5
    calculus, noise, levy = ("ito",), ("diagonal",), "space-time"
    drift_evaluations, diffusion_evaluations = 2, 1

    def step(self, system: System, state: State, inc: Increments, *, error: bool = False, dense: bool = False) -> Step:
        y, w, area = state.y, inc.w, inc.H
        assert w is not None and area is not None
        g = system.diffusion(inc.t0, y)
        plain, shifted = system.drift(inc.t0, y), system.drift(inc.t0, y + g * (0.5 * w + area))
        return Step(State(y + inc.h * shifted + g * w), inc.h * (shifted - plain))
