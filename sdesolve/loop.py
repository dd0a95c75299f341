"""The loop of adaptive steps: one attempt and its commitment, as pure functions.

``attempt`` takes a step in every lane and judges it; ``commit`` keeps what was accepted. Both are pure functions of
tensors, so the same two run in the Python loop of ``driver.py`` and in the compiled ones of ``compiled/``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from sdesolve.brownian.levy import Increment
from sdesolve.clock import STRETCH, Clock, ClockState, Proposal
from sdesolve.lanes import clamp, maximum, where
from sdesolve.methods.method import Increments, Method, State, Step
from sdesolve.solution import Status
from sdesolve.step_size import PID, damped, rms, scaled, tolerated
from sdesolve.system import System

# plain ints: a compiled comparison of a tensor with an IntEnum's member is not elementwise
RUNNING, SUCCESS, EVENT = int(Status.RUNNING), int(Status.SUCCESS), int(Status.EVENT)

#: given a proposal, the Brownian increments over it
NoiseSource = Callable[[Proposal], Increment]


class Carry(NamedTuple):
    """What passes from one step to the next. Lanes are the clocks: as many as trajectories, or one for all."""

    y: Tensor  # the state
    cache: tuple[Tensor, ...]  # of the method
    clock: ClockState
    h: Tensor  # (lanes,) the step to try next
    memory: tuple[Tensor, ...]  # (lanes,) logarithms of 1 / earlier error ratios
    status: Tensor  # (batch,)
    accepted: Tensor  # (lanes,)
    rejected: Tensor  # (lanes,)
    evaluations: Tensor | None = None  # (batch,) of the drift, where steps report them
    watch: Any = None  # what the watcher knows


class Sizes(Protocol):
    """The part of a carry that decides on the next step: of tensors, or of numbers on the host."""

    @property
    def clock(self) -> ClockState: ...

    @property
    def h(self) -> Any: ...

    @property
    def memory(self) -> tuple[Any, ...]: ...


class Attempt(NamedTuple):
    """A step that was tried, and what is to become of it."""

    inc: Increments
    step: Step
    proposal: Proposal
    accept: Tensor  # (lanes,)
    landed: Tensor  # (lanes,) accepted, and on a landing point
    broken: Tensor  # (batch,) running, and the step gave NaN or infinity
    stale: Tensor | None  # (batch,) the cache does not belong to the new state
    clock: ClockState
    h: Tensor
    memory: tuple[Tensor, ...]
    status: Tensor
    worst: Tensor  # (lanes,) error over tolerance
    watch: Any = None  # what the watcher knows
    happened: Any = None  # what it has seen; None: nothing


class Effect(NamedTuple):
    """What a watcher changes of a step.

    y : the new state. again, fraction : the lanes that must try again, and with which part of the step; both None:
    none. changed : (batch,) whose state was changed, so that the method's cache is made anew. part : the step, in some
    lanes a shorter one, that is taken instead. status : (batch,) how trajectories stand behind it, RUNNING where the
    step says. watch, happened : what it knows now, and what it has seen. waits : (lanes,) who stays as it is, as if it
    had not been asked; None: nobody.
    """

    y: Tensor
    again: Tensor | None = None
    fraction: Tensor | None = None
    changed: Tensor | None = None
    part: tuple[Increments, Step, Proposal] | None = None
    status: Tensor | None = None
    watch: Any = None
    happened: Any = None
    waits: Tensor | None = None


class _Verdict(NamedTuple):
    """On a step: who runs, (batch,), and may move, (lanes,); error over tolerance, (batch,) and (lanes,); which lanes
    are accepted; what part of the step the others should try (None: by their error); whose cache is stale, (batch,)."""

    running: Tensor
    active: Tensor
    ratio: Tensor
    worst: Tensor
    accept: Tensor
    fraction: Tensor | None = None
    stale: Tensor | None = None
    status: Tensor | None = None


#: looks at a step that is about to be accepted, (batch,) whose: (state before, increments, step, accept, proposal, what
#: it knows, at first None) -> Effect
Watcher = Callable[[State, Increments, Step, Tensor, Proposal, Any], Effect]


def failed(status: Tensor) -> Tensor:
    """Which trajectories have stopped without success."""
    return status > SUCCESS


def stopped(status: Tensor) -> Tensor:
    """Which trajectories have stopped before the last landing point."""
    return (status > SUCCESS) | (status == EVENT)


def followed(state: State, rest: Tensor) -> State:
    """The same state, but the trajectories in ``rest``, (batch,), stand with a good one: on a clock that all share time
    goes on, and where they stopped the function may be NaN at later times."""
    good = (~rest).to(torch.int8).argmax().reshape(1)

    def other(x: Tensor) -> Tensor:
        return torch.where(rest.reshape(-1, *(1,) * (x.ndim - 1)), x.detach().index_select(0, good), x)

    return State(other(state.y), tuple(map(other, state.cache)))


@dataclass(frozen=True)
class Loop:
    """The parts of a loop of adaptive steps; none of them changes while it runs."""

    system: System
    method: Method
    clock: Clock
    control: PID
    noise: NoiseSource | None = None
    watcher: Watcher | None = None
    norm: Callable[[Tensor], Tensor] | None = None
    at_landing: Callable[[Tensor, int], Tensor] | None = None
    jumps: Tensor | None = None
    max_steps: int | Tensor = 100_000
    dense: bool = False

    # ---- between the lanes (clocks) and the trajectories

    def to_batch(self, lanes: Tensor) -> Tensor:
        return lanes.expand(self.system.spec.batch)

    def to_state(self, lanes: Tensor) -> Tensor:
        """(lanes,) -> 0-d, or (batch, 1, ..., 1)."""
        return lanes.reshape(()) if self.clock.lanes == 1 else self.system.spec.expand(lanes)

    def worst(self, ratio: Tensor, running: Tensor) -> Tensor:
        """(batch,) -> (lanes,): a shared clock obeys the worst of the running trajectories."""
        ratio = torch.where(running, ratio, torch.zeros_like(ratio))
        return ratio.amax(0, keepdim=True) if self.clock.lanes == 1 else ratio

    def first_time(self) -> Tensor:
        """Where the clocks start, as the functions are given it."""
        nothing = torch.zeros(self.clock.lanes, dtype=self.system.spec.time_dtype, device=self.system.spec.device)
        return self.to_state(self.clock.propose(self.clock.start(), nothing, nothing > 0).t0)

    def evaluations(self) -> int:
        """Of the drift, a step."""
        return self.method.evaluations(dense=self.dense, error=True)

    # ---- one step

    def start(self, y: Tensor, cache: tuple[Tensor, ...], h: Tensor, status: Tensor) -> Carry:
        zero = torch.zeros(self.clock.lanes, dtype=torch.int64, device=y.device)
        none = torch.zeros(self.clock.lanes, dtype=h.dtype, device=y.device)
        memory, spent = (none,) * self.control.memory, None
        if self.method.reports_evaluations:
            spent = torch.zeros_like(status)
        return Carry(y, cache, self.clock.start(), h, memory, status, zero, zero.clone(), evaluations=spent)

    def step(self, state: State, inc: Increments) -> Step:
        """The method's, with its error."""
        if not self.method.reads_tolerance:
            return self.method.step(self.system, state, inc, error=True, dense=self.dense)
        tolerance: dict[str, Any] = {"tolerance": tolerated(state.y.detach(), None, self.control)}
        return self.method.step(self.system, state, inc, error=True, dense=self.dense, **tolerance)

    def attempt(self, carry: Carry, rest: Tensor | None = None, until: Tensor | int | None = None) -> Attempt:
        """Try a step. Lanes that have come to landing point ``until`` wait there. Trajectories in ``rest``, (batch,),
        are given a step of length 0, and count as broken: the same verdict as before, with no NaN in the graph."""
        spec = self.system.spec
        running = carry.status == RUNNING
        active = ~self.clock.finished(carry.clock) & (running.any().reshape(1) if self.clock.lanes == 1 else running)
        if until is not None:
            active = active & (self.clock.position(carry.clock) < until)
        proposal = self.clock.propose(carry.clock, carry.h, active)
        inc = Increments(
            self.to_state(proposal.t0),
            self.to_state(proposal.t1),
            self.clock.direction * self.to_state(proposal.h),
            *(self.noise(proposal) if self.noise else Increment()),
        )
        before = State(carry.y, carry.cache)
        if rest is not None and self.clock.lanes == spec.batch:
            inc = self.resting(inc, rest)
        elif rest is not None:
            before = followed(before, rest)
        step = self.step(before, inc)
        with torch.no_grad():
            verdict = self._verdict(carry, step, running, active, rest)
        if self.watcher is not None:
            return self._watched(carry, before, inc, step, proposal, verdict)
        with torch.no_grad():
            return self._judge(carry, inc, step, proposal, verdict)

    def _watched(
        self, carry: Carry, before: State, inc: Increments, step: Step, proposal: Proposal, verdict: _Verdict
    ) -> Attempt:
        """The attempt, or what the watcher makes of it."""
        assert self.watcher is not None
        accept = self.to_batch(verdict.accept) & verdict.running
        effect = self.watcher(before, inc, step, accept, proposal, carry.watch)
        kept = proposal
        if effect.part is not None:
            inc, step, kept = effect.part
        step = step._replace(state=step.state._replace(y=effect.y))
        verdict = verdict._replace(stale=effect.changed, status=effect.status)
        if effect.again is not None:
            verdict = verdict._replace(accept=verdict.accept & ~effect.again, fraction=effect.fraction)
        if effect.waits is not None:
            goes = ~effect.waits
            verdict = verdict._replace(active=verdict.active & goes, accept=verdict.accept & goes)
            kept = kept._replace(h=torch.where(goes, kept.h, 0.0))
        with torch.no_grad():
            found = self._judge(carry, inc, step, proposal, verdict, kept)
        return found._replace(watch=effect.watch, happened=effect.happened)

    def _verdict(self, carry: Carry, step: Step, running: Tensor, active: Tensor, rest: Tensor | None) -> _Verdict:
        """Whether the error of each trajectory, and so of each lane, is within its tolerance."""
        ratio = self.ratio(carry.y, step)
        good = ratio < torch.inf  # NaN is not
        if step.failed is not None:
            good = good & ~step.failed
        if rest is not None:
            good = good & ~rest
        ratio = torch.where(good, ratio, torch.inf)
        worst = self.worst(ratio, running)
        return _Verdict(running, active, ratio, worst, (worst <= 1) & active)

    def resting(self, inc: Increments, rest: Tensor) -> Increments:
        """The same increments, but none for the trajectories in ``rest``."""
        mask = self.system.spec.expand(rest)
        still = lambda x: torch.where(rest.reshape(-1, *(1,) * (x.ndim - 1)), 0.0, x)
        t1 = torch.where(mask, inc.t0, inc.t1) if inc.t0.ndim else inc.t1
        return Increments(inc.t0, t1, torch.where(mask, 0.0, inc.h), *Increment(*inc[3:]).map(still))

    def ratio(self, y: Tensor, step: Step) -> Tensor:
        """Error over tolerance of each trajectory, to be asked for without a graph; NaN or infinity where the step gave
        them."""
        assert step.error is not None
        y1 = step.state.y

        def size(error: Tensor) -> Tensor:
            # y1 - y1 is 0, or NaN where the new state is not finite
            error = scaled(error + (y1 - y1), y, y1, self.control)
            return self.norm(error) if self.norm else rms(error, self.system.spec)

        return size(step.error) if step.coarse is None else damped(size(step.error), size(step.coarse))

    def _judge(
        self,
        carry: Carry,
        inc: Increments,
        step: Step,
        proposal: Proposal,
        verdict: _Verdict,
        kept: Proposal | None = None,
    ) -> Attempt:
        """What follows from the verdict: the next step sizes, where the clocks stand, who has finished or failed.
        kept : the part of the proposal that is taken, if it is not the whole that was judged."""
        running, active, ratio, worst, accept, fraction, stale, ended = verdict
        h, memory, tiny = self.sizes(self.clock, carry, proposal, worst, accept, active, fraction)
        proposal = proposal if kept is None else kept
        clock = self.clock.advance(carry.clock, proposal, accept)

        bad = running & (ratio == torch.inf)
        reason = torch.where(bad, int(Status.NONFINITE), int(Status.STEP_UNDERFLOW))
        if step.failed is not None:
            reason = torch.where(step.failed, int(Status.NOT_CONVERGED), reason)
        spent = active & (carry.accepted + carry.rejected + 1 >= self.max_steps)
        status = torch.where(running & self.to_batch(spent), int(Status.MAX_STEPS), carry.status)
        failing = ~(ratio <= 1)
        if fraction is not None:
            failing = failing | self.to_batch(worst <= 1)
        status = torch.where(running & self.to_batch(tiny) & failing, reason, status)
        status = torch.where(running & self.to_batch(accept & self.clock.finished(clock)), SUCCESS, status)
        if ended is not None:
            status = torch.where(running & self.to_batch(accept) & (ended != RUNNING), ended, status)
        landed = accept & proposal.landing
        if self.jumps is not None:
            over = self.to_batch(landed & self.jumps[proposal.target])
            stale = over if stale is None else stale | over
        return Attempt(inc, step, proposal, accept, landed, bad, stale, clock, h, memory, status, worst)

    def sizes(
        self,
        clock: Clock,
        now: Sizes,
        proposal: Proposal,
        worst: Any,
        accept: Any,
        active: Any,
        fraction: Any = None,
    ) -> tuple[Any, tuple[Any, ...], Any]:
        """The next step of each lane, what the controller remembers, and which lanes can become no shorter."""
        assert self.method.error_order is not None
        factor, memory = self.control.proposal(worst, accept, now.memory, self.method.error_order)
        h = proposal.h * factor
        # a step cut short by a landing point says little of how long the next may be
        h = where(accept & proposal.cut & (factor >= 1), maximum(h, now.h), h)
        if fraction is not None:
            h = where(active & ~accept & (worst <= 1), proposal.h * fraction, h)
        if self.control.dt_max is not None:
            h = clamp(h, most=self.control.dt_max * (1 - STRETCH))
        least = clock.least_step(now.clock)
        if self.control.dt_min is not None:
            least = clamp(least, least=self.control.dt_min)
        tiny = active & ~accept & (h < least)
        h = where(active, maximum(h, least), now.h)
        keep = accept & ~proposal.cut
        memory = tuple(where(keep, new, old) for new, old in zip(memory, now.memory, strict=True))
        return h, memory, tiny

    def choose(self, mask: Tensor, new: State, old: State) -> State:
        """The new state where ``mask``, (batch,), is true."""
        wide = lambda x: mask.reshape(-1, *(1,) * (x.ndim - 1)) if self.system.spec.batched else mask[0]
        pairs = zip(new.cache, old.cache, strict=True)
        return State(torch.where(wide(new.y), new.y, old.y), tuple(torch.where(wide(a), a, b) for a, b in pairs))

    def commit(self, carry: Carry, a: Attempt, *, kept: str = "some", fresh: bool = False) -> Carry:
        """Keep the accepted lanes. That ``kept`` is all or none, or every cache ``fresh``, an eager driver can know."""
        old = State(carry.y, carry.cache)
        state = a.step.state if kept == "all" else old
        if kept == "some":
            state = self.choose(self.to_batch(a.accept) & (carry.status == RUNNING), a.step.state, old)
        if a.stale is not None and not fresh:
            renewed = State(state.y, self.method.renew(self.system, self.now(a), state))
            state = self.choose(self.to_batch(a.stale), renewed, state)
        taken, spent = a.proposal.h > 0, carry.evaluations
        if spent is not None and a.step.evaluations is not None:
            moved = self.to_batch(taken) & (carry.status == RUNNING)
            spent = spent + torch.where(moved, a.step.evaluations, 0)
        return Carry(
            state.y,
            state.cache,
            a.clock,
            a.h,
            a.memory,
            a.status,
            carry.accepted + (a.accept & taken),
            carry.rejected + (~a.accept & taken),
            spent,
            a.watch,
        )

    def now(self, a: Attempt) -> Tensor:
        """Where the clocks stand after the step, as the functions are given it."""
        idle = torch.zeros_like(a.accept)
        return self.to_state(self.clock.propose(a.clock, a.h, idle).t0)

    def crossed(self, state: State, point: int, here: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The state and the method's cache on a landing point behind which the right-hand side, or the state, is
        another one; all trajectories stand there."""
        if self.at_landing is not None:
            state = state._replace(y=self.at_landing(state.y, point))
        return state.y, self.method.renew(self.system, here, state)

    def running(self, carry: Carry) -> Tensor:
        """Whether anyone is still running, 0-d."""
        return (carry.status == RUNNING).any()

    def moving(self, carry: Carry, until: Tensor | int) -> Tensor:
        """Who is still on the way to a landing point, (batch,)."""
        return (carry.status == RUNNING) & self.to_batch(self.clock.position(carry.clock) < until)
