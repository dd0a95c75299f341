"""Where events are found: to the accuracy of the solve, each crossing once, the earlier one first."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

import sdesolve as ss
from sdesolve.bracket import bracketed
from sdesolve.methods import METHODS, names
from tests.events.known import F64, fall, first, span, swing

TIGHT = {"rtol": 1e-10, "atol": 1e-12}
HALF = math.pi / 2
WAYS = {"own": {}, "shared": {"shared_steps": True}}


def clock(t, y):
    """dy/dt = 1: y is the time, and every step exact."""
    return torch.ones_like(y)


def start(batch=1):
    return torch.zeros(batch, 1, dtype=F64)


@pytest.mark.parametrize("way", WAYS)
def test_zeros_of_the_cosine_are_found_as_exactly_as_it_is_solved(way):
    amplitude = torch.tensor([1.0, 2.0, 0.3], dtype=F64)
    y0 = torch.stack([amplitude, torch.zeros(3, dtype=F64)], 1)
    sol = ss.solve(ss.ODE(swing), y0, span(0, 10), events=ss.Event(first, terminal=False), **TIGHT, **WAYS[way])
    exact = HALF + math.pi * torch.arange(3, dtype=F64)[:, None].expand(3, 3)
    (found,) = sol.events
    assert found.counts.tolist() == [3, 3, 3] and sol.status.tolist() == [ss.Status.SUCCESS] * 3
    torch.testing.assert_close(found.times, exact, rtol=0, atol=1e-8)
    # on the surface itself up to rounding, however loose the solve
    assert (found.ys[..., 0].abs() <= 1e-15 * 4).all()
    sign = torch.tensor([-1.0, 1.0, -1.0], dtype=F64)[:, None]
    torch.testing.assert_close(found.ys[..., 1], sign * amplitude, rtol=1e-8, atol=0)


@pytest.mark.parametrize("power", [4, 6, 8])
def test_the_error_of_an_event_is_that_of_the_steps_and_not_of_the_dense_output(power):
    """A solve that ends at the event, by the same steps, has the event's state."""
    tol = 10.0**-power
    y0, tolerances = torch.tensor([[1.0, 0.0]], dtype=F64), {"rtol": tol, "atol": tol}
    sol = ss.solve(ss.ODE(swing), y0, span(0, 8), events=ss.Event(first, terminal=False), **tolerances)
    for time, y in zip(sol.events[0].times[:, 0], sol.events[0].ys[:, 0], strict=True):
        exact = torch.stack([torch.cos(time), -torch.sin(time)])
        assert (y - exact).abs().max() < 8 * 10 * tol, "a few times the tolerance over a few steps"
    assert (sol.events[0].ys[..., 0].abs() < 1e-15).all()


@pytest.mark.parametrize(
    "name", [n for n in names("ode") if METHODS["ode", n].error_order and METHODS["ode", n].has_dense]
)
def test_events_of_every_adaptive_method_with_dense_output(name):
    y0 = torch.tensor([[1.0, 0.0]], dtype=F64)
    loose = METHODS["ode", name].order < 3
    tol = 1e-6 if loose else 1e-8
    sol = ss.solve(ss.ODE(swing), y0, span(0, 3), events=ss.Event(first), method=name, rtol=tol, atol=tol)
    assert sol.status.item() == ss.Status.EVENT
    assert abs(sol.events[0].times.item() - HALF) < 300 * tol
    assert sol.events[0].ys[0, 0, 0].abs() < 1e-15


def test_events_of_a_nonlinear_problem_agree_with_scipy():
    pendulum = lambda t, y: torch.stack([y[:, 1], -torch.sin(y[:, 0]) - 0.1 * y[:, 1]], 1)
    crosses = lambda t, y: y[:, 0] - 0.5 * torch.cos(ss.batch_time(t, y))
    y0 = torch.tensor([[2.0, 0.0], [1.0, 0.5], [-1.0, 2.0]], dtype=F64)
    sol = ss.solve(ss.ODE(pendulum), y0, span(0, 15), events=ss.Event(crosses, terminal=False), **TIGHT)
    for i in range(3):
        f = lambda t, y: [y[1], -np.sin(y[0]) - 0.1 * y[1]]
        g = lambda t, y: y[0] - 0.5 * np.cos(t)
        exact = solve_ivp(f, (0, 15), y0[i], method="DOP853", events=g, rtol=1e-12, atol=1e-13, max_step=0.02)
        count = int(sol.events[0].counts[i])
        assert count == len(exact.t_events[0])
        np.testing.assert_allclose(sol.events[0].times[:count, i], exact.t_events[0], rtol=0, atol=1e-8)


def test_a_terminal_event_ends_its_trajectory_alone():
    heights = torch.tensor([1.0, 4.0, 50.0], dtype=F64)
    y0 = torch.stack([heights, torch.zeros(3, dtype=F64)], 1)
    ts = torch.linspace(0, 2, 9, dtype=F64)
    sol = ss.solve(ss.ODE(fall), y0, ts, events=ss.Event(first), dense=True)
    exact = (2 * heights / 9.81) ** 0.5
    assert sol.status.tolist() == [ss.Status.EVENT, ss.Status.EVENT, ss.Status.SUCCESS] and sol.success.all()
    torch.testing.assert_close(sol.events[0].times[0, :2], exact[:2], rtol=1e-12, atol=0)
    assert sol.events[0].times[0, 2].isnan() and sol.events[0].counts.tolist() == [1, 1, 0]
    assert sol.events[0].which.tolist() == [[0, 0, -1]]
    behind = ts[:, None] > exact
    assert (sol.ys[..., 0].isnan() == behind).all()
    torch.testing.assert_close(sol.ys[..., 0][~behind], (heights - 9.81 * ts[:, None] ** 2 / 2)[~behind])
    for t in (0.4, 1.3):
        assert (sol(t)[:, 0].isnan() == (t > exact)).all()


@pytest.mark.parametrize("way", WAYS)
def test_what_a_trajectory_meets_does_not_depend_on_the_others(way):
    heights = torch.linspace(0.5, 3, 6, dtype=F64)
    y0 = torch.stack([heights, torch.linspace(-1, 1, 6, dtype=F64)], 1)
    many = ss.solve(ss.ODE(swing), y0, span(0, 5), events=ss.Event(first, terminal=False), **TIGHT, **WAYS[way])
    for i in range(6):
        one = ss.solve(ss.ODE(swing), y0[i : i + 1], span(0, 5), events=ss.Event(first, terminal=False), **TIGHT)
        count = int(one.events[0].counts)
        assert count == many.events[0].counts[i]
        torch.testing.assert_close(many.events[0].times[:count, i], one.events[0].times[:, 0], rtol=0, atol=1e-8)


def test_a_shared_clock_stops_nobody_but_those_at_their_event():
    heights = torch.tensor([1.0, 4.0, 1.0, 50.0], dtype=F64)
    y0 = torch.stack([heights, torch.zeros(4, dtype=F64)], 1)
    sol = ss.solve(ss.ODE(fall), y0, span(0, 0.3, 2), events=ss.Event(first), shared_steps=True)
    assert sol.status.tolist() == [ss.Status.EVENT] * 3 + [ss.Status.SUCCESS]
    torch.testing.assert_close(sol.events[0].times[0, :3], (2 * heights[:3] / 9.81) ** 0.5, rtol=1e-12, atol=0)
    assert sol.ys[-1, :3].isnan().all() and not sol.ys[:2].isnan().any()


def test_a_condition_that_is_zero_at_the_start_fires_when_it_comes_back():
    y0 = torch.tensor([[0.0, 2.0], [0.0, 0.01], [0.0, 5.0]], dtype=F64)
    # a first step as long as the solve, so that all are back within it
    sol = ss.solve(ss.ODE(fall), y0, span(0, 3), events=ss.Event(first), rtol=1e-6, atol=1e-6, dt=3.0)
    assert sol.status.tolist() == [ss.Status.EVENT] * 3
    torch.testing.assert_close(sol.events[0].times[0], 2 * y0[:, 1] / 9.81, rtol=1e-12, atol=0)
    # downwards it leaves for good
    gone = ss.solve(ss.ODE(fall), -y0, span(0, 3), events=ss.Event(first))
    assert gone.status.tolist() == [ss.Status.SUCCESS] * 3 and gone.events[0].counts.sum() == 0


def test_a_solve_that_goes_on_from_an_event_does_not_meet_it_again():
    event = ss.Event(lambda t, y: y[:, 0] - math.cos(2.0))
    y0 = torch.tensor([[1.0, 0.0]], dtype=F64)
    for _ in range(4):
        sol = ss.solve(ss.ODE(swing), y0, span(0, 10), events=event, **TIGHT)
        y0, time = sol.events[0].ys[0], sol.events[0].times.item()
        assert min(abs(time - whole) for whole in (2.0, 2 * math.pi - 4.0, 4.0)) < 1e-8


def test_a_condition_at_rest_on_zero_at_the_start_does_not_fire():
    sol = ss.solve(ss.ODE(fall), torch.zeros(1, 2, dtype=F64), span(0, 1), events=ss.Event(first))
    assert sol.status.item() == ss.Status.SUCCESS and sol.events[0].times.shape == (0, 1)


def roots(*places):
    """A polynomial with these roots, positive at the start."""

    def condition(t, y):
        value = torch.ones_like(y[:, 0])
        for place in places:
            value = value * (place - y[:, 0])
        return value

    return condition


@pytest.mark.parametrize(("direction", "expected"), [(0, [0.3, 0.6]), (1, [0.6]), (-1, [0.3])])
def test_two_crossings_in_one_step_are_seen_a_quarter_of_it_apart(direction, expected):
    event = ss.Event(roots(0.3, 0.6), direction=direction, terminal=False)
    sol = ss.solve(ss.ODE(clock), start(), span(0, 1), events=event, dt=1.0, rtol=1e-3)
    torch.testing.assert_close(sol.events[0].times[:, 0], torch.tensor(expected, dtype=F64), rtol=0, atol=1e-15)


def test_crossings_that_are_closer_take_shorter_steps():
    event = ss.Event(roots(0.55, 0.6), terminal=False)
    find = lambda control: ss.solve(
        ss.ODE(clock), start(), span(0, 1), events=event, dt=1.0, controller=control
    ).events[0]
    assert find(ss.PID(1e-3)).times.numel() == 0, "between two points that are looked at"
    torch.testing.assert_close(find(ss.PID(1e-3, dt_max=0.1)).times[:, 0], span(0.55, 0.6), rtol=0, atol=1e-15)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("place", [0.25, 0.5, 1.0])
def test_an_event_at_an_output_time_or_the_last_is_found_once(place, way):
    at = ss.Event(lambda t, y: y[:, 0] - place, terminal=False)
    sol = ss.solve(ss.ODE(clock), start(2), span(0, 0.25, 0.5, 1), events=at, **WAYS[way])
    assert sol.status.tolist() == [ss.Status.SUCCESS] * 2
    torch.testing.assert_close(sol.events[0].times, span(place, place)[None], rtol=0, atol=3e-16)
    torch.testing.assert_close(sol.ys[:, 0, 0], span(0, 0.25, 0.5, 1), rtol=0, atol=3e-16)
    end = ss.solve(ss.ODE(clock), start(2), span(0, 0.25, 0.5, 1), events=ss.Event(at.condition), **WAYS[way])
    assert end.status.tolist() == [ss.Status.EVENT] * 2
    assert end.ys[:, 0, 0].isnan().tolist() == [t > place for t in (0, 0.25, 0.5, 1)]


def test_a_condition_of_time_alone_fires_at_that_time():
    event = ss.Event(lambda t, y: ss.batch_time(t, y) - 0.3, terminal=False)
    for way in WAYS.values():
        sol = ss.solve(ss.ODE(swing), torch.ones(3, 2, dtype=F64), span(0, 1), events=event, **way)
        torch.testing.assert_close(sol.events[0].times, span(0.3).expand(1, 3), rtol=0, atol=1e-15)


def test_of_two_events_in_one_step_the_earlier_is_first():
    late, early = (ss.Event(roots(place), terminal=end) for place, end in ((0.7, True), (0.6, False)))
    sol = ss.solve(ss.ODE(clock), start(), span(0, 1), events=[late, early], dt=1.0, rtol=1e-3)
    assert sol.status.item() == ss.Status.EVENT
    assert [round(event.times.item(), 14) for event in sol.events] == [0.7, 0.6]
    first_ends = [ss.Event(roots(0.7)), ss.Event(roots(0.6))]
    sol = ss.solve(ss.ODE(clock), start(), span(0, 1), events=first_ends, dt=1.0, rtol=1e-3)
    assert [event.counts.item() for event in sol.events] == [0, 1]


def test_a_vector_of_conditions_tells_which_of_them_it_was():
    event = ss.Event(lambda t, y: y - torch.tensor([0.2, 0.9, 0.4], dtype=F64), terminal=False)
    other = ss.Event(lambda t, y: y[:, 0] - 0.5, terminal=False)
    sol = ss.solve(ss.ODE(clock), start(2), span(0, 1), events=(other, event))
    assert sol.events[1].which.tolist() == [[0, 0], [2, 2], [1, 1]]
    torch.testing.assert_close(sol.events[1].times[:, 1], span(0.2, 0.4, 0.9), rtol=0, atol=1e-15)
    torch.testing.assert_close(sol.events[0].times[0], span(0.5, 0.5), rtol=0, atol=1e-15)


def test_directions_are_those_along_a_backward_solve():
    y0 = torch.tensor([[1.0, 0.0]], dtype=F64)
    times = []
    for direction in (-1, 1):
        event = ss.Event(first, direction=direction, terminal=False)
        times.append(ss.solve(ss.ODE(swing), y0, span(0, -6), events=event, **TIGHT).events[0].times[:, 0])
    torch.testing.assert_close(times[0], span(-HALF), rtol=0, atol=1e-8)
    torch.testing.assert_close(times[1], span(-3 * HALF), rtol=0, atol=1e-8)


def test_a_condition_without_a_derivative_is_found_on_the_dense_output():
    event = ss.Event(lambda t, y: torch.where(y[:, 0] > 0, 1.0, -1.0).to(F64))
    sol = ss.solve(ss.ODE(swing), torch.tensor([[1.0, 0.0]], dtype=F64), span(0, 3), events=event, **TIGHT)
    assert abs(sol.events[0].times.item() - HALF) < 1e-7


def test_one_trajectory_and_functions_of_one_trajectory():
    alone = ss.solve(
        ss.ODE(swing, batched=False), torch.tensor([1.0, 0.0], dtype=F64), span(0, 5), events=ss.Event(first), **TIGHT
    )
    assert alone.events[0].times.shape == (1,) and alone.events[0].ys.shape == (1, 2)
    assert alone.events[0].counts.shape == () and abs(alone.events[0].times.item() - HALF) < 1e-8
    y0 = torch.tensor([[1.0, 0.0], [1.0, 1.0]], dtype=F64)
    pair = ss.Event(lambda t, y: torch.stack([y[0], y[1] - 0 * t]), terminal=False)
    for way in WAYS.values():
        mapped = ss.solve(ss.ODE(swing, vectorize=True), y0, span(0, 2.0), events=pair, **TIGHT, **way)
        assert mapped.events[0].which.tolist() == [[0, 1], [-1, -1]] or mapped.events[0].counts.tolist() == [1, 1]
        assert abs(mapped.events[0].times[0, 0] - HALF) < 1e-8
        assert abs(mapped.events[0].times[0, 1] - math.pi / 4) < 1e-8


def test_the_states_at_events_of_a_pytree_are_a_pytree():
    f = lambda t, y: {"x": y["v"], "v": -y["x"]}
    y0 = {"x": torch.ones(2, 3, dtype=F64), "v": torch.zeros(2, 3, dtype=F64)}
    for vectorize in (False, True):
        event = ss.Event(lambda t, y, v=vectorize: y["x"].sum() if v else y["x"].sum(1) + 0 * t)
        sol = ss.solve(ss.ODE(f, vectorize=vectorize), y0, span(0, 2), events=event, **TIGHT)
        assert sol.events[0].ys["x"].shape == (1, 2, 3)
        torch.testing.assert_close(sol.events[0].ys["v"], -torch.ones(1, 2, 3, dtype=F64), rtol=0, atol=1e-8)


def test_output_times_of_each_trajectory_and_outputs_between_steps():
    ts = torch.stack([torch.linspace(0, 5, 40, dtype=F64), torch.linspace(1, 4, 40, dtype=F64)])
    y0 = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=F64)
    event = ss.Event(first, terminal=False)
    own = ss.solve(ss.ODE(swing), y0, ts, events=event, **TIGHT)
    torch.testing.assert_close(own.events[0].times[0], span(HALF, 1 + HALF), rtol=0, atol=1e-8)
    stop = ss.Event(lambda t, y: y[:, 0] + 0.5, direction=-1)
    between = ss.solve(ss.ODE(swing), y0, ts, events=stop, controller=ss.PID(1e-10, 1e-12, interpolate=True))
    time = 2 * math.pi / 3
    exact = torch.where(ts - ts[:, :1] < time, torch.cos(ts - ts[:, :1]), torch.nan).T
    torch.testing.assert_close(between.ys[..., 0], exact, rtol=0, atol=1e-8, equal_nan=True)


def test_states_of_any_shape_and_complex_ones():
    """exp(i t) is sent to the other side where its imaginary part rises through 1/2: half a turn later it is there
    again, and its real part never falls through 0."""
    for shape in ((2,), (2, 1), (2, 2, 3)):
        y0 = torch.ones(shape, dtype=torch.complex128, requires_grad=True)
        event = ss.Event(lambda t, y: y.real.reshape(2, -1)[:, 0], terminal=False, direction=-1)
        turn = ss.Event(lambda t, y: y.imag.reshape(2, -1)[:, 0] - 0.5, affect=lambda t, y: -y, direction=1)
        sol = ss.solve(ss.ODE(lambda t, y: 1j * y), y0, span(0, 8), events=[event, turn], **TIGHT)
        torch.testing.assert_close(sol.events[1].times[:2, 0], span(math.pi / 6, 7 * math.pi / 6), rtol=0, atol=1e-8)
        assert sol.events[0].times.numel() == 0
        (slope,) = torch.autograd.grad(sol.events[1].times[0].sum(), y0)
        # Im(y0 exp(i t)) = 1/2 at y0 = 1
        first = slope.reshape(2, -1)[:, 0]
        torch.testing.assert_close(first.imag, -torch.ones(2, dtype=F64), rtol=1e-7, atol=0)


def test_float32_events_are_as_exact_as_float32():
    y0 = torch.tensor([[1.0, 0.0]])
    sol = ss.solve(ss.ODE(fall), y0, torch.tensor([0.0, 1.0]), events=ss.Event(first))
    assert sol.events[0].times.dtype == torch.float32
    assert abs(sol.events[0].times.item() - math.sqrt(2 / 9.81)) < 4e-7


def test_large_times_cost_no_accuracy():
    offset = 1e6
    y0 = torch.tensor([[1.0, 0.0]], dtype=F64)
    sol = ss.solve(ss.ODE(fall), y0, span(offset, offset + 1), events=ss.Event(first))
    assert abs(sol.events[0].times.item() - offset - math.sqrt(2 / 9.81)) <= 2.4e-10, "two units in the last place"


def test_stats_count_what_the_search_has_cost():
    calls = [0]

    def counted(t, y):
        calls[0] += 1
        return swing(t, y)

    y0 = torch.tensor([[1.0, 0.0]], dtype=F64)
    sol = ss.solve(ss.ODE(counted), y0, span(0, 10), events=ss.Event(first, terminal=False), **TIGHT)
    assert sol.stats.drift_evaluations.item() == calls[0]


@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_bracketed_finds_roots_to_rounding(dtype):
    exact = torch.tensor([0.1, 1e-9, 0.999, 0.5, 1.0, 0.3], dtype=dtype)
    shape = torch.tensor([1.0, 1.0, 30.0, 0.0, 1.0, 5.0], dtype=dtype)
    f = lambda x: torch.where(shape == 0, torch.where(x >= exact, 1.0, -1.0), (x - exact) * torch.exp(shape * x))
    low, high = torch.zeros(6, dtype=dtype), torch.ones(6, dtype=dtype)
    calls = [0]

    def g(x):
        calls[0] += 1
        return f(x)

    found = bracketed(g, low, high, -f(high), f(high), torch.ones(6, dtype=torch.bool))
    assert ((found - exact).abs() <= 4 * torch.finfo(dtype).eps * exact).all()
