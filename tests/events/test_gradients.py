"""Derivatives of event times, of states there and of what comes behind them: by closed forms."""

import math

import pytest
import torch

import sdesolve as ss
from tests.events.known import F64, G, ball, bounce, fall, first, span, swing

TIGHT = {"rtol": 1e-11, "atol": 1e-13}
WAYS = {"own": {}, "shared": {"shared_steps": True}}


def number(x):
    return torch.tensor(x, dtype=F64, requires_grad=True)


@pytest.mark.parametrize("way", WAYS)
def test_the_time_of_a_fall_has_the_derivatives_of_its_closed_form(way):
    height = torch.tensor([1.0, 2.0, 0.7], dtype=F64, requires_grad=True)
    speed = torch.tensor([0.0, 1.0, -0.5], dtype=F64, requires_grad=True)
    sol = ss.solve(ss.ODE(fall), torch.stack([height, speed], 1), span(0, 3), events=ss.Event(first), **WAYS[way])
    time = (speed + torch.sqrt(speed**2 + 2 * G * height)) / G
    for found, exact in ((sol.events[0].times[0], time), (sol.events[0].ys[0, :, 1], speed - G * time)):
        mine = torch.autograd.grad(found.square().sum(), (height, speed), retain_graph=True)
        known = torch.autograd.grad(exact.square().sum(), (height, speed), retain_graph=True)
        torch.testing.assert_close(mine, known, rtol=1e-10, atol=1e-12)
    place = torch.autograd.grad(sol.events[0].ys[0, :, 0].sum(), (height, speed), retain_graph=True)
    torch.testing.assert_close(place, (torch.zeros(3, dtype=F64),) * 2, rtol=0, atol=1e-12)


def test_parameters_of_the_condition_and_of_the_right_hand_side_move_the_event():
    omega, level = number(1.3), number(0.4)
    f = lambda t, y: swing(t, y, omega)
    event = ss.Event(lambda t, y: y[:, 0] - level * ss.batch_time(t, y), terminal=False)
    y0 = torch.tensor([[1.0, 0.0]], dtype=F64)
    time = ss.solve(ss.ODE(f), y0, span(0, 2), events=event, **TIGHT).events[0].times[0, 0]
    # cos(omega t) = level t
    t, w, c = time.item(), omega.item(), level.item()
    slope = -w * math.sin(w * t) - c
    exact = (t * math.sin(w * t) / slope, t / slope)
    mine = torch.autograd.grad(time, (omega, level))
    torch.testing.assert_close(torch.stack(mine), span(*exact), rtol=1e-8, atol=0)


@pytest.mark.parametrize("way", WAYS)
def test_behind_bounces_outputs_have_the_derivatives_of_the_closed_form(way):
    height, restitution = torch.tensor([1.0, 1.4], dtype=F64, requires_grad=True), number(0.8)
    y0 = torch.stack([height, torch.zeros(2, dtype=F64)], 1)
    ts = torch.linspace(0, 2.9, 7, dtype=F64)
    sol = ss.solve(ss.ODE(fall), y0, ts, events=bounce(restitution), **TIGHT, **WAYS[way])
    assert (sol.events[0].counts >= 3).all()
    exact = torch.stack([torch.stack([ball(h, restitution, t) for h in height]) for t in ts])
    for i in range(1, 7):
        mine = torch.autograd.grad(sol.ys[i, :, 0].sum(), (height, restitution), retain_graph=True)
        known = torch.autograd.grad(exact[i].sum(), (height, restitution), retain_graph=True, allow_unused=True)
        known = [torch.zeros_like(m) if k is None else k for m, k in zip(mine, known, strict=True)]
        for a, b in zip(mine, known, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def test_the_frequency_moves_every_bounce_of_an_oscillator_on_a_wall():
    """After n bounces at pi (k - 1/2) / omega the place is r^n |cos(omega t)|."""
    omega, restitution = number(1.1), number(0.9)
    f = lambda t, y: swing(t, y, omega)
    y0, time = torch.tensor([[1.0, 0.0]], dtype=F64), 12.0
    sol = ss.solve(ss.ODE(f), y0, span(0, time), events=bounce(restitution), **TIGHT)
    n = sol.events[0].counts.item()
    assert n == 4
    mine = torch.autograd.grad(sol.ys[-1, 0, 0], (omega, restitution), retain_graph=True)
    known = torch.autograd.grad(restitution**n * torch.cos(omega * time).abs(), (omega, restitution))
    torch.testing.assert_close(mine, known, rtol=1e-7, atol=0)
    # the time of the last bounce is pi (n - 1/2) / omega, whatever the restitution
    mine = torch.autograd.grad(sol.events[0].times[-1, 0], (omega, restitution))
    torch.testing.assert_close(torch.stack(mine), span(-math.pi * 3.5 / 1.1**2, 0), rtol=1e-7, atol=1e-7)


def flow(t, y):
    """Without a closed form, with time."""
    return torch.stack([y[:, 1], -torch.sin(y[:, 0]) * (1 + 0.3 * torch.sin(ss.batch_time(t, y))) - 0.2 * y[:, 1]], 1)


@pytest.mark.parametrize("way", WAYS)
def test_derivatives_of_a_kick_that_depends_on_time_and_state_are_finite_differences(way):
    def final(p):
        kick = lambda t, y: torch.stack([y[:, 0] + 0.1 * p[2] * ss.batch_time(t, y), -p[1] * y[:, 1] - y[:, 0] ** 2], 1)
        event = ss.Event(lambda t, y: y[:, 0] - 0.2 * p[0] * torch.sin(ss.batch_time(t, y)), direction=-1, affect=kick)
        y0 = torch.stack([torch.stack([p[0], 0 * p[0]]), torch.stack([0.7 * p[1], -p[2]])])
        sol = ss.solve(ss.ODE(flow), y0, span(0, 4.0), events=event, rtol=1e-9, atol=1e-11, **WAYS[way])
        assert (sol.events[0].counts > 0).all()
        return torch.cat([sol.ys[-1].reshape(-1), sol.events[0].times[0], sol.events[0].ys[0].reshape(-1)])

    p = torch.tensor([1.1, 0.8, 0.5], dtype=F64, requires_grad=True)
    mine = torch.stack([torch.autograd.grad(x, p, retain_graph=True)[0] for x in final(p)])
    step = 1e-5
    with torch.no_grad():
        columns = [(final(p + step * e) - final(p - step * e)) / (2 * step) for e in torch.eye(3, dtype=F64)]
    torch.testing.assert_close(mine, torch.stack(columns, 1), rtol=1e-5, atol=1e-5)


def test_an_event_that_changes_nothing_changes_no_derivative():
    y0 = torch.tensor([[1.0, 0.3]], dtype=F64, requires_grad=True)
    same = ss.Event(first, affect=lambda t, y: y.clone())
    run = lambda **how: ss.solve(ss.ODE(swing), y0, span(0, 5), **TIGHT, **how).ys[-1, 0, 0]
    plain, watched, effect = run(), run(events=ss.Event(first, terminal=False)), run(events=same)
    expected = torch.autograd.grad(plain, y0)[0]
    for other in (watched, effect):
        torch.testing.assert_close(torch.autograd.grad(other, y0)[0], expected, rtol=1e-8, atol=1e-9)


def test_an_event_at_a_given_time_moves_with_that_time_alone():
    when, y0 = number(0.5), torch.tensor([[2.0]], dtype=F64, requires_grad=True)
    event = ss.Event(lambda t, y: ss.batch_time(t, y) - when, affect=lambda t, y: y + 1)
    sol = ss.solve(ss.ODE(lambda t, y: -y), y0, span(0, 1), events=event, **TIGHT)
    dy, dt = torch.autograd.grad(sol.ys[-1].sum(), (y0, when), retain_graph=True)
    # y(1) = y0 e^-1 + e^(when - 1)
    torch.testing.assert_close(dy.item(), math.exp(-1), rtol=1e-9, atol=0)
    torch.testing.assert_close(dt.item(), math.exp(-0.5), rtol=1e-9, atol=0)
    (one,) = torch.autograd.grad(sol.events[0].times.sum(), when)
    torch.testing.assert_close(one.item(), 1.0, rtol=1e-14, atol=0)


@pytest.mark.parametrize("way", WAYS)
def test_functions_that_break_down_behind_an_event_leave_no_nan_in_the_gradients(way):
    """The right-hand side has no value at the state of the first event from t = 1.25 on, where a shared clock goes."""
    rate = number(0.5)
    f = lambda t, y: -rate * torch.sqrt(y + 1 - t)
    y0 = torch.tensor([[0.5], [8.0], [6.0]], dtype=F64, requires_grad=True)
    event = ss.Event(lambda t, y: torch.sqrt(y[:, 0]) - 0.5)
    sol = ss.solve(ss.ODE(f), y0, span(0, 1.0, 2.5), events=event, **WAYS[way])
    assert sol.status.tolist() == [ss.Status.EVENT, 0, 0] and sol.events[0].times[0, 0] < 1
    total = sol.events[0].times.nansum() + sol.ys[1, 1:].sum()
    assert all(g.isfinite().all() for g in torch.autograd.grad(total, (y0, rate)))


def test_second_derivatives_through_an_event_are_refused():
    y0 = torch.tensor([[1.0, 0.0]], dtype=F64, requires_grad=True)
    time = ss.solve(ss.ODE(fall), y0, span(0, 3), events=ss.Event(first)).events[0].times.sum()
    with pytest.raises(RuntimeError, match=r"create_graph: got True.*once"):
        torch.autograd.grad(time, y0, create_graph=True)


def test_without_a_graph_there_is_none():
    sol = ss.solve(ss.ODE(fall), torch.tensor([[1.0, 0.0]], dtype=F64), span(0, 3), events=ss.Event(first))
    assert not sol.events[0].times.requires_grad
    with torch.inference_mode():
        y0 = torch.tensor([[1.0, 0.0]], dtype=F64)
        sol = ss.solve(ss.ODE(fall), y0, span(0, 3), events=bounce(0.8))
    assert sol.events[0].counts.item() == 6
