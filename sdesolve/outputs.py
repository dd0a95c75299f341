"""What an adaptive solve leaves on its way: states at the output times, and records for dense output."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdesolve.interpolate import AtMany
from sdesolve.loop import Attempt, Carry, Loop, stopped
from sdesolve.methods.method import State
from sdesolve.state import StateSpec


class Inside(NamedTuple):
    """Outputs inside a step of each lane. rows : (n, batch) or (n, 1), which they are; behind the last one for none.
    theta : (n, lanes), where in the step."""

    rows: Tensor
    theta: Tensor

    def values(self, spec: StateSpec, y: Tensor, powers: tuple[Tensor, ...]) -> Tensor:
        """The states there, (n, batch, ...), from that at the step's start and the coefficients of the step."""
        graph = torch.is_grad_enabled() and any(x.requires_grad for x in (y, *powers))
        found: Tensor = (AtMany.apply if graph else _at_many)(self.wide(spec), y, *powers)
        return found

    def wide(self, spec: StateSpec) -> Tensor:
        """theta, to be broadcast against states (n, batch, ...)."""
        n, lanes = self.theta.shape
        ndim = len(spec.shape)
        return self.theta.reshape((n, lanes, *(1,) * (ndim - 1)) if spec.batched else (n, *(1,) * ndim))


def _at_many(theta: Tensor, *coefficients: Tensor) -> Tensor:
    return AtMany.values(theta, coefficients)


class Round(NamedTuple):
    """A round of steps, of which some lanes' were accepted, in what is needed to take them again.

    t0, t1, h : (lanes,) times and signed length. ticket : ticks that name the noise, or (). taken : (batch,) whose were
    accepted; None: everyone's. landed, row : (batch,) who has come to an output and to which one; None: nobody. stale,
    after : (batch,) behind a jump of the right-hand side, and (lanes,) the time there, at which the method's cache is
    made anew; None: nobody. inside : outputs within the step. ratio : (lanes,) of the step's error to its tolerance.
    """

    t0: Tensor
    t1: Tensor
    h: Tensor
    ticket: tuple[Tensor, ...] = ()
    taken: Tensor | None = None
    landed: Tensor | None = None
    row: Tensor | None = None
    stale: Tensor | None = None
    after: Tensor | None = None
    inside: Inside | None = None
    ratio: Tensor | None = None


class Recorder(Protocol):
    """Who is told of the steps of a solve: the state before the first, and that after each, of adaptive steps with what
    is needed to take it again."""

    def begin(self, loop: Any, state: State) -> None: ...

    def add(self, state: State, round: Round | None = None) -> None: ...


class Record(NamedTuple):
    """An accepted step, for dense output: (lanes,) times and lengths in float64, state at its start, coefficients, who
    took it."""

    t0: Tensor
    h: Tensor
    y: Tensor
    dense: tuple[Tensor, ...]
    taken: Tensor

    def among(self, lanes: Tensor, batch: int) -> Record:
        """The same where these are but some of the trajectories."""
        wide = lambda x: x.new_zeros((batch, *x.shape[1:])).index_copy(0, lanes, x)
        t0, h, y, dense, taken = self
        return Record(wide(t0), wide(h), wide(y), tuple(map(wide, dense)), wide(taken))


class Between:
    """Finds the outputs that steps pass over. times : (T, 1) or (T, batch), of which neither the first nor the last is
    looked for."""

    def __init__(self, times: NDArray[np.float64], spec: StateSpec, lanes: int) -> None:
        self.direction = 1.0 if times[-1, 0] > times[0, 0] else -1.0
        self.spec, self.count, self.lanes = spec, len(times), lanes
        times = np.ascontiguousarray(times[1:-1].T)  # (columns, T - 2)
        self.times = torch.as_tensor(times, dtype=torch.float64, device=spec.device)
        self.ahead = self.direction * self.times
        self.on_host = self.ahead[0].cpu().numpy()
        self.done = torch.zeros(lanes, dtype=torch.int64, device=spec.device)

    def part(self, lanes: Tensor) -> Between:
        """Of some of the lanes."""
        of = copy(self)
        of.spec, of.lanes, of.done = self.spec.resized(len(lanes)), len(lanes), self.done[lanes]
        if len(self.times) > 1:
            of.times, of.ahead = self.times[lanes], self.ahead[lanes]
        return of

    def passed(self, t0: Tensor, t1: Tensor, accept: Tensor) -> Inside | None:
        """The outputs in the steps that these lanes take, (lanes,) all, times in float64; waits for the device."""
        ahead = self.ahead.expand(self.lanes, -1).contiguous()
        upto = torch.searchsorted(ahead, (self.direction * t1)[:, None].contiguous(), right=True)[:, 0]
        upto = torch.where(accept, torch.maximum(upto, self.done), self.done)
        count = upto - self.done
        most = int(count.max())
        if not most:
            return None
        k = torch.arange(most, device=count.device)[:, None]
        found = k < count
        rows = torch.where(found, self.done + k, 0)
        times = self.times.expand(self.lanes, -1).gather(1, rows.T).T
        theta = torch.where(found, ((times - t0) / (t1 - t0)).clamp(0, 1), 0.0)
        self.done = upto
        return Inside(torch.where(found, rows + 1, self.count), theta.to(self.spec.time_dtype))

    def passed_by_all(self, t0: Any, t1: Any) -> Inside | None:
        """The same for a clock that all share, whose times are numbers on the host."""
        first = int(self.done)
        last = max(int(np.searchsorted(self.on_host, self.direction * t1, side="right")), first)
        if first == last:
            return None
        theta = ((self.direction * self.on_host[first:last] - t0) / (t1 - t0)).clip(0, 1)
        rows = torch.arange(first + 1, last + 1, device=self.spec.device)
        self.done = self.done.new_full((1,), last)
        return Inside(rows[:, None], torch.as_tensor(theta[:, None], dtype=self.spec.time_dtype, device=rows.device))


@dataclass
class Outputs:
    """States at the output times, gathered while the loop runs: (T, batch, ...), NaN where it did not get.

    Without gradients they are written into one buffer. With gradients, which in-place writes would make quadratic,
    the states of trajectories are kept as they come, row below row, and each output remembers in which row it stands.
    between : finds the outputs that no step ends on; None: there are none. happened : what a watcher has seen. lanes :
    whose states are written.
    """

    outputs: Tensor  # landing point -> output, or the number of outputs for none
    rows: list[int]  # the same on the host
    buffer: Tensor
    spec: StateSpec
    lanes: Tensor
    between: Between | None = None
    place: Tensor | None = None
    kept: list[Tensor] | None = None
    filled: int = 0
    happened: list[Any] = field(default_factory=list)

    @staticmethod
    def make(
        y0: Tensor, count: int, spec: StateSpec, outputs: Tensor, graph: bool, between: Between | None = None
    ) -> Outputs:
        """For ``count`` outputs; y0 is the start state."""
        buffer = torch.full((count + 1, *y0.shape), torch.nan, dtype=y0.dtype, device=y0.device)
        buffer[0] = y0.detach()
        rows = [count if row < 0 else row for row in outputs.tolist()]
        lanes = torch.arange(spec.batch, device=y0.device)
        found = Outputs(torch.as_tensor(rows, device=y0.device), rows, buffer, spec, lanes, between)
        if graph:
            found.place = torch.full((count + 1, spec.batch), -1, dtype=torch.int64, device=y0.device)
            found.kept = []
            found.place[0] = found._keep(y0[None])[0]
        return found

    @property
    def whole(self) -> bool:
        """Whether they are those of all trajectories."""
        return len(self.lanes) == self.spec.batch

    def narrow(self, lanes: Tensor) -> None:
        """From now on states are those of some of the trajectories that they were."""
        self.lanes = self.lanes[lanes]
        self.between = None if self.between is None else self.between.part(lanes)

    def write(self, loop: Loop, a: Attempt, running: Tensor, y: Tensor) -> None:
        """States of the lanes that have landed; the last row takes what belongs to no output."""
        spec = loop.system.spec
        landed, row = self.landed(loop, a, running)
        lanes = self.lanes
        if self.place is not None:
            self.place[row, lanes] = torch.where(landed, self._keep(y[None])[0], self.place[row, lanes])
        elif spec.batched:
            self.buffer[row, lanes] = torch.where(spec.expand(landed), y, self.buffer[row, lanes])
        else:
            self.buffer[row] = torch.where(landed, y[None], self.buffer[row])

    def _keep(self, states: Tensor) -> Tensor:
        """Keep (n, lanes, ...) states; their rows, (n, lanes)."""
        assert self.kept is not None
        block = states.flatten(0, 1) if self.spec.batched else states
        self.kept.append(block)
        first, self.filled = self.filled, self.filled + len(block)
        return torch.arange(first, self.filled, device=block.device).reshape(len(states), -1)

    def landed(self, loop: Loop, a: Attempt, running: Tensor) -> tuple[Tensor, Tensor]:
        """Who has come to a landing point, (batch,), and which output it is; behind the last one for none."""
        row = loop.to_batch(torch.where(a.landed, self.outputs[a.proposal.target], len(self.buffer) - 1))
        return loop.to_batch(a.landed) & running, row

    def write_all(self, point: int, y: Tensor) -> None:
        """States of all trajectories, on this landing point."""
        if self.place is not None:
            self.place[self.rows[point]] = self._keep(y[None])[0]
        else:
            self.buffer[self.rows[point]] = y

    def write_inside(self, spec: StateSpec, inside: Inside, values: Tensor) -> None:
        """States (n, batch, ...) within a step."""
        if self.place is not None:
            self.place[inside.rows, self.lanes] = self._keep(values)
        elif spec.batched:
            self.buffer[inside.rows, self.lanes] = values
        else:
            self.buffer[inside.rows[:, 0]] = values

    def write_row(self, loop: Loop, carry: Carry, point: int) -> None:
        """States of all trajectories that stand at this landing point; those that ended at an event were written."""
        here = loop.to_batch(loop.clock.position(carry.clock) == point) & ~stopped(carry.status)
        row = self.outputs[point]
        self.buffer[row] = torch.where(loop.system.spec.expand(here), carry.y, self.buffer[row])

    def states(self) -> Tensor:
        """(T, batch, ...)."""
        if self.kept is None or self.place is None:
            return self.buffer[:-1]
        place = self.place[:-1]
        kept = torch.cat([*self.kept, torch.full_like(self.kept[0][:1], torch.nan)])
        in_order = torch.arange(place.numel(), device=place.device).reshape(place.shape)
        whole = bool((place == in_order).all())
        found = kept[: place.numel()].unflatten(0, place.shape) if whole else kept[place]
        return found if self.spec.batched else found[:, 0]
