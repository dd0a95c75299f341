"""Events by fixed steps: the steps of the table, of which one that holds an event is taken in parts."""

import math

import pytest
import torch
from scipy.integrate import solve_ivp

import sdesolve as ss
from sdesolve.methods import METHODS, names
from tests.events.known import F64, G, assert_balls_bounce, ball, bounce, dropped, fall, first, span, swing

WAYS = {"own": {}, "shared": {"shared_steps": True}}
HALF = math.pi / 2
NEVER = ss.Event(lambda t, y: y.reshape(len(y), -1)[:, 0] + 1e3)
DENSE = [name for name in names("ode") if METHODS["ode", name].has_dense and not METHODS["ode", name].adaptive_only]


def flow(t, y):
    """Without a closed form, with time."""
    return torch.stack([y[..., 1], -torch.sin(y[..., 0]) - 0.2 * y[..., 1] + 0.3 * torch.sin(t + 0 * y[..., 0])], -1)


def own(t, y):
    return flow(ss.batch_time(t, y), y)


@pytest.mark.parametrize("name", DENSE)
def test_steps_that_meet_no_event_are_those_without_events(name):
    y0 = torch.tensor([[1.0, 0.3], [0.2, -0.7], [2.0, 0.0]], dtype=F64)
    for ts in (span(0, 0.33, 1.0), span(1.0, 0.2, -0.5)):
        how = {"method": name, "dt": 0.09}
        plain, watched = (ss.solve(ss.ODE(own), y0, ts, **how, events=events) for events in (None, NEVER))
        implicit = METHODS["ode", name].may_fail
        # linear algebra and Newton's norms see the batch; the rest is the same arithmetic
        torch.testing.assert_close(watched.ys, plain.ys, rtol=1e-13 if implicit else 0, atol=1e-13 if implicit else 0)
        assert torch.equal(watched.stats.steps, plain.stats.steps)
        assert watched.success.all() and watched.events[0].counts.tolist() == [0, 0, 0]


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("batch", [1, 3])
def test_so_are_those_of_times_of_each_trajectory_and_of_one_alone(dtype, batch):
    y0 = torch.linspace(0.1, 1, 2 * batch, dtype=dtype).reshape(batch, 2)
    ts = 1e3 + torch.linspace(0, 1, 4, dtype=F64) * torch.linspace(1, 2, batch, dtype=F64)[:, None]
    for times in (ts, ts[0], ts[0].flip(0)):
        plain, watched = (ss.solve(ss.ODE(own), y0, times, dt=0.07, events=events) for events in (None, NEVER))
        assert torch.equal(watched.ys, plain.ys) and torch.equal(watched.stats.steps, plain.stats.steps)
    alone = ss.ODE(flow, batched=False)
    never = ss.Event(lambda t, y: y[0] + 1e3)
    plain, watched = (ss.solve(alone, y0[0], ts[0], dt=0.07, events=events) for events in (None, never))
    assert torch.equal(watched.ys, plain.ys)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dt", [0.05, 0.31, 10.0])
def test_twenty_bounces_of_a_ball_are_at_their_exact_times(way, dt):
    heights = [1.0, 0.8, 1.7]
    ts = torch.linspace(0, 7.5, 16, dtype=F64)
    sol = ss.solve(ss.ODE(fall), dropped(*heights), ts, events=bounce(0.9), dt=dt, **WAYS[way])
    assert_balls_bounce(sol, heights, ts)


def test_steps_behind_an_event_are_those_of_the_table():
    """Starts of all steps: the grid, and the events."""
    ts, dt = span(0, 0.7, 2.0), 0.1
    sol = ss.solve(ss.ODE(fall), dropped(1.0), ts, events=bounce(0.8), dt=dt, dense=True)
    events = sol.events[0].times[:, 0]
    grid = torch.cat([torch.linspace(0, 0.7, 8, dtype=F64)[:-1], torch.linspace(0.7, 2, 14, dtype=F64)[:-1]])
    expected = torch.cat([grid, events]).sort().values
    torch.testing.assert_close(sol.dense.starts[:, 0], expected, rtol=1e-14, atol=1e-15)
    assert sol.stats.steps.item() == 20 + len(events) and sol.stats.rejected.item() == 0
    t = torch.linspace(0.01, 1.99, 80, dtype=F64)
    known = torch.stack([ball(torch.tensor(1.0, dtype=F64), 0.8, time) for time in t])
    torch.testing.assert_close(sol(t)[:, 0, 0], known, rtol=0, atol=1e-10)


def test_what_a_trajectory_does_is_bitwise_the_same_whatever_the_others_meet():
    y0 = torch.stack([torch.linspace(0.5, 3, 6, dtype=F64), torch.linspace(-1, 1, 6, dtype=F64)], 1)
    event = bounce(0.7)
    many = ss.solve(ss.ODE(swing), y0, span(0, 2, 5), events=event, dt=0.1)
    assert many.events[0].counts.unique().numel() > 1
    for i in range(0, 6, 2):
        pair = ss.solve(ss.ODE(swing), y0[i : i + 2], span(0, 2, 5), events=event, dt=0.1)
        assert torch.equal(pair.ys, many.ys[:, i : i + 2])
        for j in range(2):
            count = int(pair.events[0].counts[j])
            assert torch.equal(pair.events[0].times[:count, j], many.events[0].times[:count, i + j])


@pytest.mark.parametrize(("name", "order"), [("heun", 2), ("bosh3", 3), ("rk4", 4), ("leapfrog", 2)])
def test_times_of_events_have_the_order_of_the_method(name, order):
    """A pendulum's second passage through 1/10; the oscillator's phase would be exact to a higher order."""
    pendulum = lambda t, y: torch.stack([y[:, 1], -torch.sin(y[:, 0])], 1)
    problem, y0 = ss.ODE(pendulum), torch.tensor([[1.0, 0.4]], dtype=F64)
    event = ss.Event(lambda t, y: y[:, 0] - 0.1, terminal=False)
    exact = ss.solve(problem, y0, span(0, 6), events=event, rtol=1e-12, atol=1e-13).events[0].times[1, 0].item()
    if name == "leapfrog":
        problem = ss.Hamiltonian(lambda q: (1 - torch.cos(q)).sum(-1))
        y0 = (y0[:, :1], y0[:, 1:])
        event = ss.Event(lambda t, y: y[0][:, 0] - 0.1, terminal=False)
    errors = []
    for n in (16, 32, 64, 128):
        sol = ss.solve(problem, y0, span(0, 6), events=event, method=name, dt=6 / n)
        errors.append(abs(sol.events[0].times[1, 0].item() - exact))
    slope = math.log(errors[0] / errors[-1]) / math.log(8)
    assert abs(slope - order) < 0.35, errors


def test_events_of_fixed_steps_agree_with_scipy():
    y0 = torch.tensor([[2.0, 0.0], [1.0, 0.5], [-1.0, 2.0]], dtype=F64)
    event = ss.Event(lambda t, y: y[:, 0] - 0.5 * torch.cos(ss.batch_time(t, y)), terminal=False)
    sol = ss.solve(ss.ODE(own), y0, span(0, 15), events=event, method="dop853", dt=0.1)
    for i in range(3):
        f = lambda t, y: flow(torch.tensor(t), torch.as_tensor(y)).numpy()
        g = lambda t, y: y[0] - 0.5 * math.cos(t)
        exact = solve_ivp(f, (0, 15), y0[i], method="DOP853", events=g, rtol=1e-12, atol=1e-13, max_step=0.1)
        count = int(sol.events[0].counts[i])
        assert count == len(exact.t_events[0]) > 1
        found = sol.events[0].times[:count, i]
        torch.testing.assert_close(found, torch.as_tensor(exact.t_events[0]), rtol=0, atol=1e-9)


@pytest.mark.parametrize("way", WAYS)
def test_derivatives_of_a_kick_by_fixed_steps_are_finite_differences(way):
    def final(p):
        kick = lambda t, y: torch.stack([y[:, 0] + 0.1 * p[2] * ss.batch_time(t, y), -p[1] * y[:, 1] - y[:, 0] ** 2], 1)
        event = ss.Event(lambda t, y: y[:, 0] - 0.2 * p[0] * torch.sin(ss.batch_time(t, y)), direction=-1, affect=kick)
        y0 = torch.stack([torch.stack([p[0], 0 * p[0]]), torch.stack([0.7 * p[1], -p[2]])])
        sol = ss.solve(ss.ODE(own), y0, span(0, 1.3, 4.0), events=event, method="dop853", dt=0.1, **WAYS[way])
        assert (sol.events[0].counts > 0).all()
        return torch.cat([sol.ys[1:].reshape(-1), sol.events[0].times[0], sol.events[0].ys[0].reshape(-1)])

    p = torch.tensor([1.1, 0.8, 0.5], dtype=F64, requires_grad=True)
    mine = torch.stack([torch.autograd.grad(x, p, retain_graph=True)[0] for x in final(p)])
    step = 1e-5
    with torch.no_grad():
        columns = [(final(p + step * e) - final(p - step * e)) / (2 * step) for e in torch.eye(3, dtype=F64)]
    torch.testing.assert_close(mine, torch.stack(columns, 1), rtol=1e-7, atol=1e-7)


def test_behind_bounces_outputs_have_the_derivatives_of_the_closed_form():
    height = torch.tensor([1.0, 1.4], dtype=F64, requires_grad=True)
    restitution = torch.tensor(0.8, dtype=F64, requires_grad=True)
    y0 = torch.stack([height, torch.zeros(2, dtype=F64)], 1)
    sol = ss.solve(ss.ODE(fall), y0, span(0, 1.1, 2.9), events=bounce(restitution), dt=0.2)
    for i, t in ((1, 1.1), (2, 2.9)):
        exact = torch.stack([ball(h, restitution, t) for h in height]).sum()
        mine = torch.autograd.grad(sol.ys[i, :, 0].sum(), (height, restitution), retain_graph=True)
        known = torch.autograd.grad(exact, (height, restitution))
        torch.testing.assert_close(mine, known, rtol=1e-9, atol=1e-10)


def test_a_pendulum_between_walls_keeps_its_energy_by_leapfrog():
    problem = ss.Hamiltonian(lambda q: (1 - torch.cos(q)).sum(-1))
    wall = ss.Event(lambda t, y: y[0][:, 0].abs() - 0.5, direction=1, affect=lambda t, y: (y[0], -y[1]))
    y0 = (torch.zeros(2, 1, dtype=F64), torch.tensor([[1.5], [2.2]], dtype=F64))
    sol = ss.solve(problem, y0, torch.linspace(0, 20, 21, dtype=F64), events=wall, dt=0.04)
    q, p = sol.ys
    energy = p**2 / 2 - torch.cos(q)
    assert (sol.events[0].counts > 25).all() and (q.abs() <= 0.5 + 1e-12).all()
    # the parts of steps are other steps: what each event loses is of third order in the step
    assert (energy - energy[0]).abs().max() < 5e-3


def test_a_terminal_event_ends_its_trajectory_alone():
    heights = torch.tensor([1.0, 4.0, 50.0], dtype=F64)
    ts = torch.linspace(0, 2, 9, dtype=F64)
    for way in WAYS.values():
        sol = ss.solve(ss.ODE(fall), dropped(*heights), ts, events=ss.Event(first), dt=0.1, **way)
        exact = (2 * heights / G) ** 0.5
        assert sol.status.tolist() == [ss.Status.EVENT, ss.Status.EVENT, ss.Status.SUCCESS]
        torch.testing.assert_close(sol.events[0].times[0, :2], exact[:2], rtol=1e-12, atol=0)
        assert (sol.ys[..., 0].isnan() == (ts[:, None] > exact)).all()


def test_a_step_that_gives_nan_fails_its_trajectory_alone():
    f = lambda t, y: -torch.sqrt(y)
    y0 = torch.tensor([[1.0], [9.0]], dtype=F64)
    sol = ss.solve(ss.ODE(f), y0, span(0, 1, 3.0), events=NEVER, dt=0.3, method="euler", on_failure="return")
    assert sol.status.tolist() == [ss.Status.NONFINITE, ss.Status.SUCCESS]
    assert sol.ys[:2].isfinite().all() and sol.ys[2, 0].isnan().all() and sol.ys[2, 1].isfinite().all()
    with pytest.raises(ss.SolveError, match="NaN"):
        ss.solve(ss.ODE(f), y0, span(0, 1, 3.0), events=NEVER, dt=0.3, method="euler")


def test_a_right_hand_side_without_a_value_at_the_event_ends_with_a_status():
    """Steps over the surface are good, those that end on it are not, however short."""
    f = lambda t, y: torch.where(y.abs() < 1e-9, torch.nan, -torch.ones_like(y))
    for how in ({"dt": 0.3}, {"rtol": 1e-6, "atol": 1e-6, "dt": 0.3}):
        y0 = torch.tensor([[1.0], [5.0]], dtype=F64)
        sol = ss.solve(ss.ODE(f), y0, span(0, 2), events=ss.Event(lambda t, y: y[:, 0]), **how, on_failure="return")
        assert sol.status[0] > ss.Status.SUCCESS and sol.status[1] == ss.Status.SUCCESS
        assert sol.stats.steps[0] < 1000


def test_stats_count_what_steps_and_the_search_have_cost():
    for name in ("rk4", "tsit5", "dop853", "heun"):
        calls = [0]

        def counted(t, y, calls=calls):
            calls[0] += 1
            return swing(t, y)

        y0 = torch.tensor([[1.0, 0.0]], dtype=F64)
        event = ss.Event(first, terminal=False)
        sol = ss.solve(ss.ODE(counted), y0, span(0, 10), events=event, method=name, dt=0.2)
        assert sol.stats.drift_evaluations.item() == calls[0], name


def test_max_steps_counts_the_parts_of_steps():
    sol = ss.solve(ss.ODE(fall), dropped(1.0), span(0, 2), events=bounce(0.8), dt=0.5, max_steps=7)
    assert sol.success.all() and sol.events[0].counts.item() == 3
    few = ss.solve(ss.ODE(fall), dropped(1.0), span(0, 2), events=bounce(0.8), dt=0.5, max_steps=6, on_failure="return")
    assert few.status.item() == ss.Status.MAX_STEPS
    with pytest.raises(ValueError, match="max_steps: got 3"):
        ss.solve(ss.ODE(fall), dropped(1.0), span(0, 2), events=bounce(0.8), dt=0.5, max_steps=3)
