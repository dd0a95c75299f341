"""Where events happen: a watcher that finds the first zero of the conditions in each step, takes the step again up to
there, and lets the event have its effect.

The crossing that `lookout` has seen on the dense output, and is as good as that, is polished by steps of the method
from the same start, until one ends on the root. So neither state nor time of an event are worse than the outputs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sdesolve.bracket import bracketed
from sdesolve.clock import Proposal
from sdesolve.coupling import refuse_coupled
from sdesolve.errors import message
from sdesolve.event import Conditions, Happened
from sdesolve.interpolate import polynomial
from sdesolve.lookout import PARTS, Found, Lookout, Watch
from sdesolve.loop import EVENT, RUNNING, Effect
from sdesolve.methods.method import Increments, Method, State, Step
from sdesolve.solution import Status
from sdesolve.system import System

#: steps that polish a root, at most: each at least squares the error of its time, relative to the step
POLISHES = 6
#: how often each condition may pass through zero while time stands still
STANDING = 2


@dataclass
class Crossings:
    """The watcher of the conditions. direction : of time, 1 or -1. scale : of times, by which rounding is told."""

    conditions: Conditions
    method: Method
    direction: float
    scale: float

    def __post_init__(self) -> None:
        spec = self.conditions.spec
        self.eps = torch.finfo(spec.time_dtype).eps
        rounding = torch.full((1,), 8 * self.eps * self.scale, dtype=spec.time_dtype, device=spec.device)
        self.lookout = Lookout(self.conditions, self.direction, rounding)

    def __call__(
        self, before: State, inc: Increments, step: Step, accept: Tensor, proposal: Proposal, watch: Watch
    ) -> Effect:
        lookout, h = self.lookout, proposal.h
        with torch.no_grad():
            values = lookout.values(before.y, inc, step, h)
            still = torch.where(accept, 0, watch.still)
            loud = accept & ~lookout.quiet(values, watch)
            if not bool(loud.any()):
                return Effect(step.state.y, watch=Watch(watch.side, still))
            wrong = accept & (values.isnan().any(0) | watch.side.isnan()).any(0)
            status = torch.where(wrong, int(Status.NONFINITE), RUNNING)
            _, rates = lookout.rates(inc.t1, step.state.y, self._slope(inc.t1, step.state))
            spent = loud * int(self.method.first_stage(step.state.cache) is None)
            signs, values = lookout.signs(values, rates, h)
            found, side = lookout.first(signs, watch.side, accept & ~wrong, len(h))
            if not bool(found.hit.any()):
                return Effect(step.state.y, status=status, watch=Watch(side, still), happened=self._nothing(spent))
            length, tries = self._located(before, inc, step, proposal, values, found)
            whole = ~found.hit | (length >= h * (1 - 4 * self.eps))
            kept, part = self._part(proposal, inc, length, whole)
        if not bool(whole.all()):
            step = self.method.step(self.conditions.system, before, part, dense=True)
            tries += self.method.evaluations(dense=True)
        return self._effect(kept, part, step, found, watch, status, spent + tries * self._to_batch(found.hit))

    def start(self, t: Tensor, y: Tensor, f: Tensor) -> Watch:
        """What is known at the start of the solve, where dy/dt = f; raises where a condition of one trajectory reads
        another."""
        conditions, spec = self.conditions, self.conditions.spec
        with torch.no_grad():
            if t.ndim:
                for i in range(len(conditions.events)):
                    value = lambda y, i=i: conditions.values(i, t, y).T
                    refuse_coupled(f"condition of events[{i}]", value, y, value(y), spec)
            still = torch.zeros(spec.batch, dtype=torch.int64, device=spec.device)
            return Watch(self.lookout.sides(t, y, f)[0], still)

    def _nothing(self, spent: Tensor) -> Happened | None:
        """What it has cost to see that nothing has happened."""
        none = spent.nonzero()[:0, 0]
        y = spent.new_zeros((0, *self.conditions.spec.per_trajectory), dtype=self.conditions.spec.dtype)
        return Happened(none, none, none.double(), y, spent) if bool(spent.any()) else None

    def resized(self, system: System) -> Crossings:
        """The same for another number of trajectories."""
        return replace(self, conditions=self.conditions.resized(system))

    # ---- lanes and trajectories

    def _to_state(self, lanes: Tensor) -> Tensor:
        return lanes.reshape(()) if len(lanes) == 1 else self.conditions.spec.expand(lanes)

    def _to_batch(self, lanes: Tensor) -> Tensor:
        return lanes.expand(self.conditions.spec.batch)

    def _slope(self, t: Tensor, state: State) -> Tensor:
        """f(t, y), without a graph."""
        first = self.method.first_stage(state.cache)
        return self.conditions.system.drift(t, state.y.detach()) if first is None else first.detach()

    # ---- locating

    def _height(self, values: Tensor, found: Found) -> Tensor:
        """How far the candidates have crossed, (K, batch): negative before, -inf for what is no candidate."""
        return torch.where(found.candidates, -found.side * values, -torch.inf)

    def _highest(self, x: Tensor, found: Found) -> Tensor:
        """Of each lane, (lanes,)."""
        return x.amax().reshape(1) if len(found.hit) == 1 else x.amax(0)

    def _located(
        self, before: State, inc: Increments, step: Step, proposal: Proposal, values: Tensor, found: Found
    ) -> tuple[Tensor, int]:
        """How long the steps up to the first crossings are, (lanes,), and evaluations of the drift spent."""

        def height(theta: Tensor) -> Tensor:
            wide = self._to_state(theta)
            y = polynomial(wide, before.y, step.dense)
            return self._highest(self._height(self.conditions(torch.lerp(inc.t0, inc.t1, wide), y), found), found)

        k = (found.high * PARTS).round().long() - 1
        at = lambda j: self._highest(
            self._height(values.gather(0, self._to_batch(j).expand(1, *values.shape[1:]))[0], found), found
        )
        upper, lower = at(k), at((k - 1).clamp(min=0))
        # the value at the start may be nothing but rounding: the side is known
        lower = torch.where((k > 0) & (lower < 0), lower, -upper)
        theta = bracketed(height, found.low, found.high, lower, upper, found.hit)
        h = proposal.h
        length, left, steps = theta * h, found.hit & (theta < 1), 0
        while steps < POLISHES and bool(left.any()):
            _, part = self._part(proposal, inc, length, ~left)
            delay = self._delay(before, part, found)
            # what the dense output and the steps do not agree on is small, or the crossing is none of them
            left = left & (delay.abs() <= 0.1 * h)
            moved = (length + delay).maximum(found.low * h).minimum(found.high * h)
            length = torch.where(left, moved, length)
            left = left & (delay.abs() > self.eps**0.5 * length)
            steps += 1
        stage = self.method.first_stage(step.state.cache) is None
        return length, steps * (self.method.evaluations() + stage)

    def _delay(self, before: State, part: Increments, found: Found) -> Tensor:
        """By how much later than at the end of the step the crossing is, (lanes,), by Newton's method; NaN or infinite
        where it cannot tell."""
        state = self.method.step(self.conditions.system, before, part).state
        values, rates = self.lookout.rates(part.t1, state.y, self._slope(part.t1, state))
        heights, speeds = self._height(values, found), -self.direction * found.side * rates
        if len(found.hit) == 1:
            heights, speeds = heights.reshape(-1, 1), speeds.reshape(-1, 1)
        height, which = heights.max(0)
        speed = speeds.gather(0, which[None])[0]
        return torch.where(speed > 0, -height / speed, torch.nan)

    def _part(self, proposal: Proposal, inc: Increments, length: Tensor, whole: Tensor) -> tuple[Proposal, Increments]:
        """The step, shortened to these lengths where it is not to be taken as a whole."""
        t1 = torch.where(whole, proposal.t1, proposal.t0 + self.direction * length)
        h = torch.where(whole, proposal.h, length)
        kept = proposal._replace(t1=t1, h=h, landing=proposal.landing & whole)
        as_is, wide = self._to_state(whole), self._to_state
        part = inc._replace(
            t1=torch.where(as_is, inc.t1, wide(t1)), h=torch.where(as_is, inc.h, self.direction * wide(h))
        )
        return kept, part

    # ---- what happens

    def _effect(
        self, kept: Proposal, inc: Increments, step: Step, found: Found, watch: Watch, status: Tensor, spent: Tensor
    ) -> Effect:
        """Behind the step that ends where the crossings are."""
        conditions, spec, y = self.conditions, self.conditions.spec, step.state.y
        with torch.no_grad():
            again = found.hit & ~self._good(step, found)
            there = self._to_batch(again)
            f = self._slope(inc.t1, step.state)
            values, rates = self.lookout.rates(inc.t1, y, f)
            heights = self._height(values, found)
            height = heights.amax(0)
            # of those that are at zero up to rounding of times, the first in the list
            there_now = (heights + self.lookout.rounding * rates.abs() >= 0) | (heights == height)
            k = there_now.to(torch.int8).argmax(0)
            fired = found.candidates.any(0) & (height == self._highest(heights, found)) & ~there
            mine = (torch.arange(len(values), device=k.device)[:, None] == k) & fired
            side = torch.where(there, watch.side, torch.where(mine, -found.side, found.side))
            stood = fired & (kept.h <= self.lookout.rounding)
            still = torch.where(stood, watch.still + 1, torch.where(found.look & ~there, 0, watch.still))
            # back on the surface before it can be told that it was left
            lost = (stood & mine & (self.direction * found.side * rates > 0)).any(0)
            owners = torch.tensor(conditions.owners, device=k.device)[k]
            ends = torch.tensor([event.ends for event in conditions.events], device=k.device)[owners] & fired
            status = torch.where(ends, EVENT, status)
            status = torch.where(~ends & (lost | (still > STANDING * len(values))), int(Status.ZENO), status)
        delay = self._moves(inc.t1, y, k, fired, rates)
        arrived = y if delay is None else y + torch.where(spec.expand(fired), f, 0.0) * spec.expand(delay)
        behind, changed = self._affected(inc.t1, arrived, delay, owners, fired, y)
        more = spent + self._to_batch(found.hit) * int(self.method.first_stage(step.state.cache) is None)
        if changed is not None:
            with torch.no_grad():
                slope = conditions.system.drift(inc.t1, behind.detach())
                now, after, rounding = self.lookout.sides(
                    inc.t1, behind, slope, torch.where(mine, 4 * values.abs(), 0.0)
                )
                # a condition that the effect has not touched may be about to pass through zero at this very time
                touched = mine | ((after - values).abs() > rounding)
                side = torch.where(changed & touched, now, side)
                more = more + changed.long() * (1 + (delay is not None) + self.method.first_evaluations)
        lanes = fired.nonzero()[:, 0]
        time = torch.zeros(len(lanes), dtype=torch.float64, device=y.device) if delay is None else delay[lanes].double()
        happened = Happened(k[lanes], lanes, time, arrived[lanes] if spec.batched else arrived[None], more)
        return Effect(
            behind,
            again if bool(again.any()) else None,
            torch.full_like(kept.h, 0.5),
            changed,
            (inc, step, kept),
            status,
            Watch(side, still),
            happened if len(lanes) else None,
        )

    def _good(self, step: Step, found: Found) -> Tensor:
        """Whose shortened step could be taken, (lanes,)."""
        good = torch.isfinite(step.state.y).reshape(self.conditions.spec.batch, -1).all(1)
        good = (good if step.failed is None else good & ~step.failed) | ~found.look
        return good.all().reshape(1) if len(found.hit) == 1 else good

    def _moves(self, t: Tensor, y: Tensor, k: Tensor, fired: Tensor, rates: Tensor) -> Tensor | None:
        """How times of events move, (batch,): zeros with a graph, or None if nothing moves them."""
        if not torch.is_grad_enabled():
            return None
        value = self.conditions(t, self._alike(fired, y)).gather(0, k[None])[0]
        if not value.requires_grad:
            return None
        rate = rates.gather(0, k[None])[0]
        inverse = torch.where(fired & (rate != 0), 1 / torch.where(rate == 0, 1.0, rate), 0.0)
        found: Tensor = _Delay.apply(value, inverse)
        return found

    def _alike(self, mask: Tensor, x: Tensor) -> Tensor:
        """x, where those that are not in the mask stand with one that is: of functions that are made for the states at
        events nothing else is asked."""
        if not self.conditions.spec.batched or not bool(mask.any()):
            return x
        one = x.detach().index_select(0, mask.to(torch.int8).argmax().reshape(1))
        return torch.where(self.conditions.spec.expand(mask), x, one)

    def _affected(
        self, t: Tensor, there: Tensor, delay: Tensor | None, owners: Tensor, fired: Tensor, y: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """The states behind the events, at the times where the steps end, and (batch,) whose they are; None: nobody's
        has changed. there : the states at the events."""
        conditions, spec = self.conditions, self.conditions.spec
        behind, changed = y, None
        for i, event in enumerate(conditions.events):
            every = fired & (owners == i)
            if event.affect is None or not bool(every.any()):
                continue
            # a clock that all share has one time, of which the derivative is another for each trajectory
            alone = delay is not None and t.ndim == 0 and spec.batch > 1
            lanes = torch.arange(spec.batch, device=y.device)
            for mask in [lanes == lane for lane in every.nonzero()[:, 0]] if alone else [every]:
                time = t
                if delay is not None:
                    time = t + (spec.expand(delay) if t.ndim else delay[mask].reshape(()))
                after = conditions.affected(i, time, self._alike(mask, there))
                if delay is not None:
                    with torch.no_grad():
                        slope = conditions.system.drift(t, after.detach())
                    after = after - slope * spec.expand(delay)
                behind = torch.where(spec.expand(mask), after, behind)
            changed = every if changed is None else changed | every
        return behind, changed


class _Delay(torch.autograd.Function):
    """Zeros that move as the root of a function moves which has this value, zero, and this slope: -d value / slope."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return torch.zeros_like(value)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                message("create_graph", "True for gradients through events", "False: they are differentiated once")
            )
        (inverse,) = ctx.saved_tensors
        return -grad * inverse, None
