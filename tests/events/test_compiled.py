"""Compiled solves with events take the eager ones' steps, and leave those with an event to the host."""

import math

import pytest
import torch
from torch._dynamo.utils import counters

import sdesolve as ss
from sdesolve.errors import CompileError
from tests.events.known import F64, bounce, bounces, dropped, fall, first, span, swing

pytestmark = pytest.mark.compile
traced = pytest.mark.traced
TIGHT = {"rtol": 1e-10, "atol": 1e-12}


def both(*args, **how):
    with torch.no_grad():
        return tuple(ss.solve(*args, **how, compile=c) for c in (False, True))


def same(eager, compiled, tolerance=1e-11, steps=True):
    assert torch.equal(compiled.status, eager.status)
    torch.testing.assert_close(compiled.ys, eager.ys, rtol=tolerance, atol=tolerance, equal_nan=True)
    for mine, other in zip(compiled.events, eager.events, strict=True):
        assert torch.equal(mine.counts, other.counts) and torch.equal(mine.which, other.which)
        torch.testing.assert_close(mine.times, other.times, rtol=tolerance, atol=tolerance, equal_nan=True)
        torch.testing.assert_close(mine.ys, other.ys, rtol=tolerance, atol=tolerance, equal_nan=True)
    if steps:
        assert torch.equal(compiled.stats.accepted, eager.stats.accepted)
        assert torch.equal(compiled.stats.rejected, eager.stats.rejected)


@pytest.mark.parametrize("steps", [TIGHT, pytest.param({"dt": 0.1}, marks=traced)], ids=["adaptive", "fixed"])
def test_twenty_compiled_bounces_are_at_their_exact_times(steps):
    heights = [1.0, 0.8, 1.7]
    eager, compiled = both(ss.ODE(fall), dropped(*heights), span(0, 2, 5.5, 7.5), events=bounce(0.9), **steps)
    # the steps of a ball are exact: their error estimates, and so adaptive steps, are rounding
    same(eager, compiled, steps="dt" in steps)
    for i, height in enumerate(heights):
        count = int(compiled.events[0].counts[i])
        exact = bounces(height, 0.9, count)
        torch.testing.assert_close(compiled.events[0].times[:count, i], exact, rtol=1e-12, atol=0)
    assert compiled.events[0].counts[0] == 20


@traced
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("steps", [TIGHT, {"dt": 0.13}], ids=["adaptive", "fixed"])
def test_ends_effects_and_records_of_several_events_are_those_of_the_eager_solve(steps, shared):
    """A vector of conditions that is written down, an end, and an effect at a time."""
    level = span(0.2, -0.4)
    events = [
        ss.Event(lambda t, y: y[:, :1] - level, terminal=False),
        ss.Event(lambda t, y: y[:, 1] - 1.5, direction=1),
        ss.Event(lambda t, y: ss.batch_time(t, y) - 1.0, affect=lambda t, y: 1.2 * y),
    ]
    y0 = torch.stack([torch.linspace(0.3, 1.6, 5, dtype=F64), torch.linspace(-1, 1, 5, dtype=F64)], 1)
    for ts in (span(0, 1.0, 2.5, 7.0), span(7.0, 2.0, 0.5)):
        eager, compiled = both(ss.ODE(swing), y0, ts, events=events, shared_steps=shared, **steps)
        same(eager, compiled)
        assert eager.events[0].counts.sum() > 8 and 0 < (eager.status == ss.Status.EVENT).sum() < 5


@traced
def test_one_trajectory_pytrees_and_functions_of_one_trajectory():
    alone = ss.ODE(swing, batched=False)
    same(*both(alone, span(1.0, 0.0), span(0, 5.0), events=ss.Event(first, terminal=False), **TIGHT))
    f = lambda t, y: {"x": y["v"], "v": -y["x"]}
    y0 = {"x": span(1.0, 2.0)[:, None], "v": span(0.0, 0.5)[:, None]}
    turn = ss.Event(lambda t, y: y["x"][:, 0], affect=lambda t, y: {"x": y["x"], "v": -0.8 * y["v"]})
    eager, compiled = both(ss.ODE(f), y0, span(0, 5.0), events=turn, **TIGHT)
    torch.testing.assert_close(compiled.ys, eager.ys, rtol=1e-11, atol=1e-11)
    one = ss.Event(lambda t, y: y[0] + 0 * t, terminal=False)
    start = torch.tensor([[1.0, 0.0], [1.0, 1.0]], dtype=F64)
    same(*both(ss.ODE(swing, vectorize=True), start, span(0, 4.0), events=one, **TIGHT))


@traced
def test_failures_of_compiled_solves_are_those_of_eager_ones():
    """The limit of bounces, NaN of a condition before and behind an effect, too many steps."""
    how = {"on_failure": "return", **TIGHT}
    eager, compiled = both(ss.ODE(fall), dropped(1.0, 300.0), span(0, 10), events=bounce(0.5), **how)
    assert compiled.status.tolist() == eager.status.tolist() == [ss.Status.ZENO, ss.Status.SUCCESS]
    log = ss.Event(lambda t, y: torch.log(y[:, 0]) + 50)
    assert both(ss.ODE(fall), dropped(1.0, 100.0), span(0, 2), events=log, **how)[1].status.tolist() == [1, 0]
    lost = ss.Event(first, affect=lambda t, y: y * torch.nan)
    assert both(ss.ODE(fall), dropped(1.0, 100.0), span(0, 2), events=lost, **how)[1].status.tolist() == [1, 0]
    few = {**how, "max_steps": 30}
    same(*both(ss.ODE(fall), dropped(1.0, 30.0), span(0, 10), events=bounce(0.9), **few))


@traced
def test_jumps_of_the_right_hand_side_and_compiled_events_can_be_at_one_time():
    f = lambda t, y: torch.where(t < 0.5, 1.0, -1.0).to(y).expand_as(y)
    jump = ss.Event(lambda t, y: ss.batch_time(t, y) - 0.5, affect=lambda t, y: 2 * y)
    y0 = torch.zeros(3, 1, dtype=F64)
    same(*both(ss.ODE(f), y0, span(0, 1), events=jump, controller=ss.PID(1e-8, 1e-8, jumps=[0.5])))


@traced
@pytest.mark.parametrize("fixed", [False, True])
def test_another_batch_span_step_and_level_is_the_same_graph(fixed):
    def solve(batch=4, level=0.3, end=4.0, step=0.1):
        level = torch.tensor(level, dtype=F64)
        event = ss.Event(lambda t, y: y[:, 0] - level, terminal=False)
        y0 = torch.stack([torch.linspace(0.5, 3, batch, dtype=F64), torch.zeros(batch, dtype=F64)], 1)
        steps = {"dt": step} if fixed else {"rtol": 1e-8 * step, "atol": 1e-8}
        same(*both(ss.ODE(swing), y0, span(0, 1, end), events=event, **steps))

    before = counters["stats"]["unique_graphs"]
    solve()
    for change in ({"batch": 7}, {"level": -0.1}, {"end": 7.0}, {"step": 0.17}):
        solve(**change)
        assert counters["stats"]["unique_graphs"] == before + 1, change


def test_gradients_of_compiled_events_are_refused():
    y0 = dropped(1.0).requires_grad_()
    with pytest.raises(CompileError, match=r"compile: got True with events, where gradients are wanted.*no_grad"):
        ss.solve(ss.ODE(fall), y0, span(0, 1), events=ss.Event(first), compile=True)
    level = torch.tensor(0.5, dtype=F64, requires_grad=True)
    for event in (ss.Event(lambda t, y: y[:, 0] - level), ss.Event(first, affect=lambda t, y: level * y)):
        with pytest.raises(CompileError, match="where gradients are wanted"):
            ss.solve(ss.ODE(fall), dropped(1.0), span(0, 1), events=event, compile=True)
    with pytest.raises(CompileError, match="dense=True"):
        ss.solve(ss.ODE(fall), dropped(1.0), span(0, 1), events=ss.Event(first), compile=True, dense=True)


@traced
def test_a_compiled_event_is_where_float32_can_say():
    y0 = torch.tensor([[1.0, 0.0], [2.0, 0.0]])
    _, compiled = both(ss.ODE(fall), y0, torch.tensor([0.0, 1.0]), events=ss.Event(first), dt=0.1)
    exact = [math.sqrt(2 * h / 9.81) for h in (1.0, 2.0)]
    torch.testing.assert_close(compiled.events[0].times[0], torch.tensor(exact), rtol=0, atol=4e-7)
