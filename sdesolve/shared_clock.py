"""Eager steps on a clock that all trajectories share (so also those of a single one).

When to step and how far is then a handful of numbers. They are kept on the host, where `loop`'s and `clock`'s formulas
cost next to nothing, and each step waits for the device once: for the error of the worst trajectory.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sdesolve.clock import RealClock
from sdesolve.loop import RUNNING, SUCCESS, Carry, Loop
from sdesolve.methods.method import Increments, State, Step, plain_eager
from sdesolve.outputs import Outputs, Record, Recorder, Round

_YES = np.bool_(True)


class Now(NamedTuple):
    """A carry of which everyone is running: y and the method's cache, and numbers on the host."""

    y: Tensor
    cache: tuple[Tensor, ...]
    clock: tuple[Any, ...]
    h: Any
    memory: tuple[Any, ...]
    accepted: int
    rejected: int
    evaluations: Tensor | None


class SharedClock:
    """The steps of a loop from a carry on, until all have finished or someone is about to fail."""

    def __init__(self, loop: Loop, carry: Carry) -> None:
        assert isinstance(loop.clock, RealClock)
        self.loop, self.real, self.status = loop, loop.clock.on_host(), carry.status
        self.jumps = () if loop.jumps is None else loop.jumps.tolist()
        number = self.number = np.float32 if carry.h.dtype == torch.float32 else np.float64
        # one transfer; float64 holds them all
        packed = torch.cat([x.double() for x in (*carry.clock, carry.h, *carry.memory, carry.accepted, carry.rejected)])
        index, elapsed, h, *memory, accepted, rejected = packed.tolist()
        clock = (np.int64(index), number(elapsed))
        memories = tuple(number(x) for x in memory)
        self.now = Now(
            carry.y, carry.cache, clock, number(h), memories, int(accepted), int(rejected), carry.evaluations
        )

    @staticmethod
    def fits(loop: Loop) -> bool:
        """Whether this way of stepping is for such a loop."""
        plain = loop.watcher is None and loop.noise is None and plain_eager()
        return plain and loop.clock.lanes == 1 and isinstance(loop.clock, RealClock)

    @property
    def finished(self) -> bool:
        """Whether the last landing point is reached."""
        return bool(self.real.finished(self.now.clock))

    def carry(self) -> Carry:
        """Where the solve stands, as tensors."""
        now = self.now
        put = lambda x: torch.as_tensor([x], device=now.y.device)
        return Carry(
            now.y,
            now.cache,
            tuple(map(put, now.clock)),
            put(now.h),
            tuple(map(put, now.memory)),
            torch.full_like(self.status, SUCCESS if self.finished else RUNNING),
            put(now.accepted),
            put(now.rejected),
            now.evaluations,
        )

    def step(self, outputs: Outputs, records: list[Record] | None, recorder: Recorder | None = None) -> bool:
        """Take a step; False, with nothing changed, if it is one that makes trajectories fail."""
        loop, now, real = self.loop, self.now, self.real
        if now.accepted + now.rejected + 1 >= loop.max_steps:
            return False
        proposal: Any = real.propose(now.clock, now.h, _YES)  # type: ignore[arg-type]
        times = self._times(proposal.t0, proposal.t1, real.direction * proposal.h)
        step = loop.step(State(now.y, now.cache), Increments(*times.unbind()))
        worst = self._worst(step)
        accept = worst <= 1
        h, memory, tiny = loop.sizes(real, now, proposal, worst, accept, _YES)
        if tiny:
            return False
        clock: Any = real.advance(now.clock, proposal, accept)
        spent = now.evaluations
        if spent is not None and step.evaluations is not None:
            spent = spent + step.evaluations
        if not accept:
            self.now = now._replace(clock=clock, h=h, memory=memory, rejected=now.rejected + 1, evaluations=spent)
            return True
        y, cache = step.state.y, step.state.cache
        inside = None
        ends = [real.now(x) for x in (now.clock, clock)]
        if outputs.between is not None:
            inside = outputs.between.passed_by_all(*ends)
        if inside is not None:
            outputs.write_inside(loop.system.spec, inside, inside.values(loop.system.spec, now.y, step.dense))
        round = None
        if recorder is not None:
            t0, t1, length = times[:, None].unbind()
            round = Round(t0, t1, length, inside=inside, ratio=torch.as_tensor([worst]))
        if proposal.landing:
            point = int(proposal.target)
            if round is not None:
                round = round._replace(landed=self._everyone(), row=torch.full_like(self.status, outputs.rows[point]))
            if point == real.last:
                y = y if loop.at_landing is None else loop.at_landing(y, point)
            elif loop.at_landing is not None or (self.jumps and self.jumps[point]):
                start: Any = real.propose(clock, h, ~_YES)  # type: ignore[arg-type]
                after = self._times(start.t0)
                y, cache = loop.crossed(State(y, cache), point, after[0])
                round = None if round is None else round._replace(stale=self._everyone(), after=after)
            outputs.write_all(point, y)
        if records is not None:
            t0, t1 = (torch.as_tensor(t, device=y.device).reshape(1) for t in ends)
            records.append(Record(t0, t1 - t0, now.y, step.dense, self._everyone()))
        if recorder is not None:
            recorder.add(State(y, cache), round)
        self.now = Now(y, cache, clock, h, memory, now.accepted + 1, now.rejected, spent)
        return True

    def _everyone(self) -> Tensor:
        return torch.ones_like(self.status, dtype=torch.bool)

    def _times(self, *times: Any) -> Tensor:
        return torch.from_numpy(np.array(times)).to(self.now.y.device)

    def _worst(self, step: Step) -> Any:
        """Error over tolerance of the worst trajectory, infinite if the step has failed; here the host waits."""
        with torch.no_grad():
            ratio = self.loop.ratio(self.now.y, step)
            if step.failed is not None:
                ratio = torch.where(step.failed, torch.inf, ratio)
            worst = self.number((ratio.max() if len(ratio) > 1 else ratio).item())
        return worst if worst < np.inf else self.number(np.inf)
