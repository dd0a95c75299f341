"""Cases that break the search for events: roots on the places that are looked at, touches, large times, crowds."""

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import sdesolve as ss
from tests.events.known import F64, G, bounce, bounces, fall, first, span, swing

STEPS = {"adaptive": {"rtol": 1e-3, "atol": 1e-3}, "fixed": {"dt": 1 / 8}, "long": {"dt": 1.0}}
by = pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)


def clock(t, y):
    """dy/dt = 1: y is the time, and every step exact."""
    return torch.ones_like(y)


def start(batch=1):
    return torch.zeros(batch, 1, dtype=F64)


def power(place, n):
    return lambda t, y: (y[:, 0] - place) ** n


@by
@pytest.mark.parametrize("place", [0.0, 0.1, 0.25, 0.375, 0.5, 0.6, 1.0])
@pytest.mark.parametrize("times", [(0, 0.5, 1), (0, 1), (0, 0.25, 0.375, 1)])
def test_a_condition_that_touches_zero_is_no_event(place, times, steps):
    for condition in (power(place, 2), lambda t, y: -power(place, 4)(t, y)):
        event = ss.Event(condition, terminal=False)
        sol = ss.solve(ss.ODE(clock), start(2), span(*times), events=event, **steps)
        assert sol.events[0].counts.tolist() == [0, 0]


@by
@pytest.mark.parametrize("place", [0.1, 0.25, 0.375, 0.5, 0.6])
def test_a_root_of_odd_order_is_found_once(place, steps):
    for n, tolerance in ((3, 1e-5), (5, 1e-3)):
        event = ss.Event(power(place, n), terminal=False, direction=1)
        sol = ss.solve(ss.ODE(clock), start(2), span(0, 0.5, 1), events=event, **steps)
        assert sol.events[0].counts.tolist() == [1, 1]
        # (t - place)^n is not 0 but for times that rounding tells from place
        assert (sol.events[0].times - place).abs().max() < tolerance


def nudged(value, ulps):
    for _ in range(abs(ulps)):
        value = math.nextafter(value, math.copysign(math.inf, ulps))
    return value


@given(
    places=st.lists(
        st.tuples(st.integers(1, 15), st.integers(-4, 4)), min_size=1, max_size=4, unique_by=lambda p: p[0]
    ),
    name=st.sampled_from(["adaptive", "fixed"]),
    shared=st.booleans(),
    offset=st.sampled_from([0.0, 3.0, 1e3]),
    sign=st.sampled_from([1.0, -1.0]),
)
@example(places=[(4, 1)], name="fixed", shared=False, offset=0.0, sign=1.0)
@example(places=[(8, -3), (12, 2)], name="adaptive", shared=True, offset=3.0, sign=-1.0)
def test_roots_beside_and_on_outputs_and_steps_are_all_found_once(places, name, shared, offset, sign):
    """Of a polynomial in y = t: sixteenths of the span, up to a few roundings; outputs are quarters, fixed steps
    eighths."""
    roots = sorted(nudged(k / 16, ulps) for k, ulps in places)

    def condition(t, y):
        value = torch.ones_like(y[:, 0])
        for root in roots:
            value = value * (y[:, 0] - root)
        return value

    steps = {"dt": 1 / 8} if name == "fixed" else {"controller": ss.PID(1e-3, 1e-3, dt_max=1 / 8)}
    ts = offset + sign * torch.linspace(0, 1, 5, dtype=F64)
    f = lambda t, y: sign * torch.ones_like(y)
    sol = ss.solve(ss.ODE(f), start(2), ts, events=ss.Event(condition, terminal=False), shared_steps=shared, **steps)
    assert sol.events[0].counts.tolist() == [len(roots)] * 2
    for i in range(2):
        torch.testing.assert_close(sol.events[0].ys[:, i, 0], span(*roots), rtol=0, atol=4e-15)
        found = sign * (sol.events[0].times[:, i] - offset)
        torch.testing.assert_close(found, span(*roots), rtol=0, atol=4e-15 + 4e-16 * offset)


@settings(max_examples=40)
@given(
    height=st.floats(0.2, 5),
    restitution=st.floats(0.3, 0.95),
    dt=st.floats(0.02, 1.0),
    name=st.sampled_from(["adaptive", "fixed"]),
    outputs=st.integers(2, 9),
)
def test_a_ball_bounces_when_it_should_whatever_the_steps(height, restitution, dt, name, outputs):
    y0, exact = torch.tensor([[height, 0.0]], dtype=F64), bounces(height, restitution, 12)
    ts = torch.linspace(0, 0.5 * float(exact[10] + exact[11]), outputs, dtype=F64)
    steps = {"dt": dt} if name == "fixed" else {"rtol": 1e-9, "atol": 1e-9}
    sol = ss.solve(ss.ODE(fall), y0, ts, events=bounce(restitution), **steps)
    assert sol.events[0].counts.item() == 11
    torch.testing.assert_close(sol.events[0].times[:, 0], exact[:11], rtol=1e-9, atol=0)


@pytest.mark.parametrize("steps", [{"rtol": 1e-5, "atol": 1e-6}, {"dt": 0.05}], ids=["adaptive", "fixed"])
def test_float32_states_at_large_times_meet_their_events_as_at_small_ones(steps):
    """Times are given in float64, and f and condition do not read them."""
    y0 = torch.tensor([[1.0, 0.0]])
    found = []
    for offset in (0.0, 1e6):
        ts = offset + torch.linspace(0, 2, 5, dtype=F64)
        sol = ss.solve(ss.ODE(fall), y0, ts, events=bounce(0.8), **steps)
        assert sol.success.all() and sol.events[0].counts.item() == 3
        found.append((sol.events[0].times - offset, sol.ys))
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(found[0][0][:, 0], bounces(1.0, 0.8, 3), rtol=0, atol=3e-6)


@pytest.mark.parametrize("steps", [{"rtol": 1e-7, "atol": 1e-7}, {"dt": 0.1}], ids=["adaptive", "fixed"])
def test_a_hundred_trajectories_meet_a_hundred_events_each(steps):
    y0 = torch.stack([torch.zeros(100, dtype=F64), torch.linspace(1, 2, 100, dtype=F64)], 1)
    events = [ss.Event(first, terminal=False), ss.Event(lambda t, y: y[:, 1:], terminal=False, direction=-1)]
    sol = ss.solve(ss.ODE(swing), y0, span(0, 212.0), events=events, **steps)
    zeros, tops = math.pi * torch.arange(1, 68, dtype=F64), math.pi * (0.5 + 2 * torch.arange(34, dtype=F64))
    for found, exact in zip(sol.events, (zeros, tops), strict=True):
        assert found.counts.unique().tolist() == [len(exact)]
        torch.testing.assert_close(found.times, exact[:, None].expand(-1, 100), rtol=0, atol=1e-4)


@by
def test_two_walls_send_a_ball_to_and_fro_at_speed_1(steps):
    """An effect that brings the state onto, or over, another event's surface is none of that event."""
    right = ss.Event(lambda t, y: y[:, 0] - 1, affect=lambda t, y: torch.stack([y[:, 0], -y[:, 1]], 1), direction=1)
    left = ss.Event(first, affect=lambda t, y: torch.stack([y[:, 0], -y[:, 1]], 1), direction=-1)
    teleport = ss.Event(lambda t, y: y[:, 0] - 0.5, affect=lambda t, y: y * span(-1, 1), direction=-1)
    f = lambda t, y: torch.stack([y[:, 1], 0 * y[:, 1]], 1)
    y0 = torch.tensor([[0.5, 1.0]], dtype=F64)
    sol = ss.solve(ss.ODE(f), y0, span(0, 10.25), events=[right, left], **steps)
    torch.testing.assert_close(sol.events[0].times[:, 0], 0.5 + 2 * torch.arange(5, dtype=F64), rtol=0, atol=1e-13)
    torch.testing.assert_close(sol.events[1].times[:, 0], 1.5 + 2 * torch.arange(5, dtype=F64), rtol=0, atol=1e-13)
    torch.testing.assert_close(sol.ys[-1, 0], span(0.75, 1), rtol=0, atol=1e-13)
    # from 1/2 to -1/2, where the ball moves on to the left; 0 was not passed
    sol = ss.solve(ss.ODE(f), y0, span(0, 4), events=[right, left, teleport], **steps)
    assert [event.counts.item() for event in sol.events] == [1, 0, 1]
    torch.testing.assert_close(sol.ys[-1, 0], span(-3.5, -1), rtol=0, atol=1e-13)


@by
def test_an_effect_whose_state_stands_on_another_surface_fires_when_it_comes_back(steps):
    """A ball is put on the floor of the other event, moving up, and falls back on it."""
    lift = ss.Event(lambda t, y: ss.batch_time(t, y) - 0.25, affect=lambda t, y: span(0.0, 0.25 * G) + 0 * y)
    floor = ss.Event(first)
    y0 = torch.tensor([[10.0, 0.0]], dtype=F64)
    sol = ss.solve(ss.ODE(fall), y0, span(0, 2), events=[lift, floor], **steps)
    assert sol.status.item() == ss.Status.EVENT
    torch.testing.assert_close(sol.events[1].times.item(), 0.75, rtol=1e-12, atol=0)


@by
def test_effects_that_never_leave_the_surface_end_with_a_status(steps):
    """y' = -1 is held above 0 by no time at all; and two events that undo each other."""
    held = ss.Event(first, affect=lambda t, y: y.abs(), direction=-1)
    f = lambda t, y: -torch.ones_like(y)
    sol = ss.solve(ss.ODE(f), start() + 0.3, span(0, 1), events=held, **steps, on_failure="return", max_steps=500)
    assert sol.status.item() in (ss.Status.ZENO, ss.Status.SUCCESS)
    there = ss.Event(first, affect=lambda t, y: -torch.ones_like(y) * 1e-20, direction=-1)
    back = ss.Event(first, affect=lambda t, y: torch.ones_like(y) * 1e-20, direction=1)
    ss.solve(ss.ODE(f), start() + 0.3, span(0, 1), events=[there, back], **steps, on_failure="return", max_steps=500)


def test_rejected_steps_between_bounces_do_not_hide_that_time_stands_still():
    """The force is so large below the ground that steps across it are rejected; the ball comes to rest all the same."""
    f = lambda t, y: torch.stack([y[:, 1], -G + 1e6 * torch.relu(-y[:, 0]) ** 1.5], 1)
    y0, how = torch.tensor([[0.1, 0.0]], dtype=F64), {"rtol": 1e-7, "atol": 1e-9, "max_steps": 5000}
    sol = ss.solve(ss.ODE(f), y0, span(0, 3), events=bounce(0.3), **how, on_failure="return")
    assert sol.status.item() == ss.Status.ZENO and sol.stats.rejected.item() > 0


@by
def test_events_at_the_first_and_last_time_and_beyond(steps):
    when = lambda place: ss.Event(lambda t, y: ss.batch_time(t, y) - place, terminal=False)
    for sign in (1, -1):
        ts = sign * span(0, 0.5, 1)
        sol = ss.solve(ss.ODE(clock), start(3), ts, events=[when(sign * x) for x in (0.0, 0.5, 1.0, 1.001)], **steps)
        assert [event.counts.tolist() for event in sol.events] == [[0] * 3, [1] * 3, [1] * 3, [0] * 3]
        torch.testing.assert_close(sol.events[2].times, ts[-1:].expand(1, 3), rtol=0, atol=1e-15)


@by
def test_a_condition_that_becomes_nan_fails_its_trajectory_alone(steps):
    y0 = torch.tensor([[1.0, 0.0], [100.0, 0.0]], dtype=F64)
    event = ss.Event(lambda t, y: torch.log(y[:, 0]) + 50)
    sol = ss.solve(ss.ODE(fall), y0, span(0, 1, 2), events=event, on_failure="return", **steps)
    assert sol.status.tolist() == [ss.Status.NONFINITE, ss.Status.SUCCESS]
    assert sol.ys[:, 1].isfinite().all() and sol.ys[-1, 0].isnan().all()


@by
def test_a_condition_that_reads_a_tensor_with_a_gradient_moves_only_what_it_should(steps):
    level = torch.tensor(0.3, dtype=F64, requires_grad=True)
    event = ss.Event(lambda t, y: y[:, 0] - level**2, affect=lambda t, y: y + level)
    sol = ss.solve(ss.ODE(clock), start(2), span(0, 0.09, 1), events=event, **steps)
    assert not torch.autograd.grad(sol.ys[0].sum() + sol.ys[-1].sum(), level, retain_graph=True)[0].isnan()
    (time,) = torch.autograd.grad(sol.events[0].times.sum(), level, retain_graph=True)
    torch.testing.assert_close(time.item(), 2 * 2 * 0.3, rtol=1e-12, atol=0)
    (end,) = torch.autograd.grad(sol.ys[-1, 0, 0], level, retain_graph=True)
    torch.testing.assert_close(end.item(), 1.0, rtol=1e-12, atol=0)
