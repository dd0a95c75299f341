"""Where a step may hold an event: what is asked of every step, and the first crossing in those that hold one.

A step is looked at on its dense output, at its end and at points between. What is known of a condition from step to
step is its sign, not its value: behind an event the value is rounding.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sdesolve.clock import Proposal
from sdesolve.event import Conditions
from sdesolve.interpolate import polynomial
from sdesolve.loop import Effect
from sdesolve.methods.method import Increments, State, Step
from sdesolve.system import System

#: in how many parts the ends of which are looked at a step is divided
PARTS = 4


class Watch(NamedTuple):
    """What is known behind a step. side : (K, batch) on which side of zero each condition is, -1 or 1; 0: not known
    yet; NaN: the condition is. still : (batch,) events in a row in which time stood still. waits : (batch,) who waits
    for the host to take a step, in compiled loops."""

    side: Tensor
    still: Tensor
    waits: Tensor | None = None


class Found(NamedTuple):
    """The first crossings of a round. look : (batch,) whose step is about to be accepted. hit : (lanes,) who has one.
    candidates : (K, batch) which may be the first one. side : (K, batch) of the conditions before it. low, high :
    (lanes,) parts of the step between which it is."""

    look: Tensor
    hit: Tensor
    candidates: Tensor
    side: Tensor
    low: Tensor
    high: Tensor


@dataclass(frozen=True)
class Lookout:
    """Looks at steps. direction : of time, 1 or -1. rounding : (1,) what rounding makes of times.

    As the watcher of a compiled loop it lets the lanes whose steps may hold an event wait, as they stand, for the host.
    """

    conditions: Conditions
    direction: float
    rounding: Tensor

    def resized(self, system: System) -> Lookout:
        """The same for another number of trajectories."""
        return replace(self, conditions=self.conditions.resized(system))

    def __call__(
        self, before: State, inc: Increments, step: Step, accept: Tensor, proposal: Proposal, watch: Watch
    ) -> Effect:
        waits = accept & ~self.quiet(self.values(before.y, inc, step, proposal.h), watch)
        idle = waits
        if proposal.h.shape[0] == 1:
            idle = waits.any().reshape(1)
            waits = idle.expand(waits.shape)
        still = torch.where(accept & ~waits, 0, watch.still)
        return Effect(step.state.y, waits=idle, watch=Watch(watch.side, still, waits))

    def quiet(self, values: Tensor, watch: Watch) -> Tensor:
        """(batch,) whose conditions stay on their sides."""
        return (values * watch.side > 0).flatten(0, 1).all(0)

    def values(self, y: Tensor, inc: Increments, step: Step, h: Tensor) -> Tensor:
        """The conditions within the step and at its end, (PARTS, K, batch); zero where they are about to be, up to
        rounding of times, so that an event at an output time is not one behind it."""
        places = [(k + 1) / PARTS for k in range(PARTS - 1)]
        inside = [self.conditions(inc.at(c), state) for c, state in zip(places, self._states(y, step), strict=True)]
        end = self.conditions(inc.t1, step.state.y)
        left = end.abs() * (h / PARTS) <= self.rounding * (end - inside[-1]).abs()
        end = torch.where(left & (end.abs() < inside[-1].abs()), 0.0, end)
        return torch.stack([*inside, end])

    def _states(self, y: Tensor, step: Step) -> list[Tensor]:
        """Within the step."""
        spec = self.conditions.spec
        theta = torch.arange(1, PARTS, dtype=spec.time_dtype, device=spec.device) / PARTS
        if torch.compiler.is_compiling():
            return [polynomial(place, y, step.dense) for place in theta.unbind()]
        return list(polynomial(theta.reshape(-1, *(1,) * len(spec.shape)), y, step.dense).unbind())

    def rates(self, t: Tensor, y: Tensor, f: Tensor) -> tuple[Tensor, Tensor]:
        """The conditions, and dg/dt + dg/dy f, (K, batch) each."""
        found: Any = torch.func.jvp(self.conditions, (t, y.detach()), (torch.ones_like(t), f))
        values, rates = found
        return values, rates

    def sides(self, t: Tensor, y: Tensor, f: Tensor, least: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """On which side of zero each condition is about to be: where it is zero, up to rounding of times or as much as
        ``least``, that to which it moves. The conditions; what rounding of times makes of them."""
        values, rates = self.rates(t, y, f)
        rounding = self.rounding * rates.abs()
        zero = values.abs() <= (rounding if least is None else torch.maximum(rounding, least))
        return torch.where(zero, self.direction * rates, values).sign(), values, rounding

    def signs(self, values: Tensor, rates: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Of the values of a step, (PARTS, K, batch), and the values with zeros where they are zero up to rounding.

        Zero is on the side that comes next: a condition that touches zero has not crossed it. At the end of the step
        that is the side to which it moves; 0 where it rests, which the next step will tell. rates : at the end.
        """
        zero = (values == 0) | (values.abs() <= self.rounding * rates.abs())
        chord = (values[-1] - values[-2]) / (h / PARTS)
        moves = rates.abs() > torch.finfo(h.dtype).eps ** 0.25 * chord.abs()
        signs = [torch.where(moves, self.direction * rates, 0.0).sign()]
        for value, none in zip(values.unbind()[::-1], zero.unbind()[::-1], strict=True):
            signs.append(torch.where(none, signs[-1], value.sign()))
        return torch.stack(signs[:0:-1]), torch.where(zero, 0.0, values)

    def first(self, signs: Tensor, side: Tensor, look: Tensor, lanes: int) -> tuple[Found, Tensor]:
        """The first crossing of each lane; and the sides at the end of the step if there were none."""
        sides, fires = [], []
        for sign in signs:
            crossed = (side * sign < 0) & look
            sides.append(side)
            fires.append(crossed & self._wanted(side))
            side = torch.where(crossed | ((side == 0) & look), sign, side)
        fired = torch.stack(fires)
        each = fired.any(1)
        each = each.any(1, keepdim=True) if lanes == 1 else each
        hit, first = each.any(0), each.to(torch.int8).argmax(0)
        batch = self.conditions.spec.batch
        index, there = first.expand(batch).expand(1, *side.shape), hit.expand(batch)
        candidates = fired.gather(0, index)[0] & there
        earlier = torch.where(there, torch.stack(sides).gather(0, index)[0], side)
        low = first.to(side.dtype) / PARTS
        return Found(look, hit, candidates, earlier, low, low + 1 / PARTS), side

    def _wanted(self, side: Tensor) -> Tensor:
        """Whether leaving this side is an event."""
        directions = [self.conditions.events[i].direction for i in self.conditions.owners]
        return torch.tensor(directions, dtype=side.dtype, device=side.device)[:, None] * side <= 0
