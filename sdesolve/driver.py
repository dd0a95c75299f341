"""The driver of the loop of adaptive steps: what happens between steps, or between compiled chunks of them.

Outputs, dense records, progress and Ctrl-C live here, and the one look at the device that each step costs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from sdesolve.clock import RealClock
from sdesolve.fewer import UnderWay
from sdesolve.loop import RUNNING, Attempt, Carry, Loop, failed, stopped
from sdesolve.methods.method import State
from sdesolve.outputs import Outputs, Record, Recorder, Round
from sdesolve.shared_clock import SharedClock


class Standing(NamedTuple):
    """How things stand behind a compiled chunk: how many trajectories are still on the way to its landing point,
    whether anyone runs, whether anyone has stopped before it, whether anyone waits for an eager step."""

    going: int
    running: bool
    failures: bool
    waiting: bool = False


def drive(
    loop: Loop,
    carry: Carry | None,
    outputs: Outputs,
    records: list[Record] | None = None,
    report: Callable[[Carry], None] | None = None,
    compiled: Callable[[Carry | None, int], tuple[Carry, Standing]] | None = None,
    recorder: Recorder | None = None,
) -> Carry:
    """Run to the end, with one host synchronisation a step.

    ``compiled`` takes a chunk of steps at once, from landing point to landing point, and without a carry starts the
    solve; results go into the buffer between chunks. (A buffer written inside the compiled loop would save the waiting,
    but torch.func transforms, which implicit steps and adjoints need, cannot stand beside such writes.) A step that may
    hold an event is left to the eager loop.
    """
    shared: SharedClock | None = None
    under_way: UnderWay | None = None
    try:
        if compiled is not None:
            for point in range(1, loop.clock.last + 1):
                standing = Standing(1, True, False)
                while standing.going:
                    carry, standing = compiled(carry, point)
                    if standing.waiting:
                        alone = UnderWay(loop, carry, divide=False)
                        carry, *_ = _eager_step(alone, outputs, None, standing.failures, until=point)
                    if report:
                        report(carry)
                assert carry is not None
                if standing.failures:
                    outputs.write_row(loop, carry, point)
                else:
                    outputs.write_all(point, carry.y)
                if not standing.running:
                    break
            assert carry is not None
            return carry
        assert carry is not None
        if recorder is not None:
            recorder.begin(loop, State(carry.y, carry.cache))
        if SharedClock.fits(loop) and bool((carry.status == RUNNING).all()):
            shared = SharedClock(loop, carry)
            while not shared.finished and shared.step(outputs, records, recorder):
                if report:
                    report(shared.carry())
            carry, shared = shared.carry(), None
        going, few, failures = bool(loop.running(carry)), False, False
        if not going:
            return carry
        under_way = UnderWay(loop, carry, divide=recorder is None)
        while going:
            if few:
                under_way.divide(outputs)
            under_way.carry, going, few, failures = _eager_step(under_way, outputs, records, failures, recorder)
            if report:
                report(under_way.everyone())
        return under_way.everyone()
    except KeyboardInterrupt as interrupt:
        stands = under_way.everyone() if under_way is not None else carry if shared is None else shared.carry()
        interrupt.carry = stands  # type: ignore[attr-defined]
        raise


def _eager_step(
    under_way: UnderWay,
    outputs: Outputs,
    records: list[Record] | None,
    failures: bool,
    recorder: Recorder | None = None,
    until: int | None = None,
) -> tuple[Carry, bool, bool, bool]:
    """One step with its one synchronisation; returns the new carry, whether to go on, whether with few, and whether
    anyone has failed. until : the landing point at which lanes wait."""
    loop, carry = under_way.loop, under_way.carry
    graph, out = torch.is_grad_enabled(), failed if loop.watcher is None else stopped
    a = loop.attempt(carry, out(carry.status) if failures and graph else None, until)
    running = carry.status == RUNNING
    accepted = loop.to_batch(a.accept) & running
    flags = [
        (a.status == RUNNING).any(),
        under_way.few_are_left(a.status),
        accepted.all(),
        accepted.any(),
        a.landed.any(),
        a.broken.any(),
        out(a.status).any(),
    ]
    if a.stale is not None:
        flags.append(a.stale.any())
    going, few, everyone, anyone, landed, broken, failures, *stale = torch.stack(flags).tolist()
    if broken and anyone and graph and a.step.state.y.requires_grad:
        # the lanes that gave NaN take the step again with length 0: masked NaN would poison the gradients of others
        a = loop.attempt(carry, a.broken | out(carry.status))
    kept = "all" if everyone else "some" if anyone else "none"
    after = loop.commit(carry, a, kept=kept, fresh=not any(stale))
    if landed and loop.at_landing is not None:
        y, cache = loop.crossed(State(after.y, after.cache), int(a.proposal.target[0]), loop.now(a))
        after = after._replace(y=y, cache=cache)
    inside = None
    if anyone and outputs.between is not None:
        inside = outputs.between.passed(*_ends(loop, carry, a), a.accept)
        if inside is not None:
            if failures:
                inside = inside._replace(rows=torch.where(accepted, inside.rows, outputs.between.count))
            outputs.write_inside(loop.system.spec, inside, inside.values(loop.system.spec, carry.y, a.step.dense))
    if landed:
        outputs.write(loop, a, running, after.y)
    if a.happened is not None:
        happened = a.happened.at(loop.to_batch(_ends(loop, carry, a)[1]))
        outputs.happened.append(happened if outputs.whole else happened.among(outputs.lanes, outputs.spec.batch))
    if records is not None and anyone:
        t0, t1 = _ends(loop, carry, a)
        record = Record(t0, torch.where(a.accept, t1 - t0, a.proposal.h), carry.y, a.step.dense, accepted)
        records.append(record if outputs.whole else record.among(outputs.lanes, outputs.spec.batch))
    if recorder is not None and anyone:
        p = a.proposal
        taken = None if everyone else accepted
        round = Round(p.t0, p.t1, loop.clock.direction * p.h, taken=taken, inside=inside, ratio=a.worst)
        if loop.noise is not None:
            round = round._replace(ticket=p.ticket[:2])
        if landed:
            mask, row = outputs.landed(loop, a, running)
            round = round._replace(landed=mask, row=row)
        if any(stale):
            now = loop.clock.propose(a.clock, a.h, torch.zeros_like(a.accept)).t0
            round = round._replace(stale=a.stale, after=now)
        recorder.add(State(after.y, after.cache), round)
    return after, going, few, failures


def _ends(loop: Loop, carry: Carry, a: Attempt) -> tuple[Tensor, Tensor]:
    """Where each lane stood and stands, in float64."""
    assert isinstance(loop.clock, RealClock)
    return loop.clock.now(carry.clock), loop.clock.now(a.clock)
