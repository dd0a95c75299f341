"""What events do: a ball that bounces, states that are changed in place and time, and limits of it."""

import math

import pytest
import torch

import sdesolve as ss
from tests.events.known import F64, G, assert_balls_bounce, ball, bounce, bounces, dropped, fall, first, span, swing

TIGHT = {"rtol": 1e-10, "atol": 1e-12}


@pytest.mark.parametrize("shared", [False, True])
def test_twenty_bounces_of_a_ball_are_at_their_exact_times(shared):
    heights = [1.0, 0.8, 1.7]
    ts = torch.linspace(0, 7.5, 16, dtype=F64)
    sol = ss.solve(ss.ODE(fall), dropped(*heights), ts, events=bounce(0.9), shared_steps=shared, **TIGHT)
    assert_balls_bounce(sol, heights, ts)


def test_twenty_bounces_of_an_oscillator_on_a_wall_keep_its_period():
    """Whose steps are not exact, as those of the ball are."""
    sol = ss.solve(ss.ODE(swing), dropped(1.0), span(0, 62, 63), events=bounce(0.9), **TIGHT)
    exact = math.pi * (0.5 + torch.arange(20, dtype=F64))
    torch.testing.assert_close(sol.events[0].times[:, 0], exact, rtol=1e-8, atol=0)
    torch.testing.assert_close(sol.ys[1:, 0, 0], 0.9**20 * span(62, 63).cos().abs(), rtol=1e-7, atol=0)


def test_a_ball_thrown_up_and_caught_in_the_step_of_its_throw_bounces():
    """Restitutions so small that the next flight is a small part of the step that the last one suggests."""
    exact = bounces(1.0, 1e-4, 3)
    sol = ss.solve(ss.ODE(fall), dropped(1.0), span(0, exact[1:].mean()), events=bounce(1e-4), **TIGHT)
    assert sol.events[0].counts.item() == 2
    # rounding of the height at the first, over a speed 1e4 times less
    torch.testing.assert_close(sol.events[0].times[:, 0], exact[:2], rtol=1e-12, atol=0)


def test_an_effect_that_leaves_the_state_on_the_surface_moving_on_does_not_fire_again():
    slower = ss.Event(first, affect=lambda t, y: y * torch.tensor([0.0, 0.5], dtype=F64))
    sol = ss.solve(ss.ODE(fall), dropped(1.0), span(0, 1), events=slower, max_steps=200)
    assert sol.success.all() and sol.events[0].counts.item() == 1
    rest = 1 - sol.events[0].times.item()
    expected = -0.5 * math.sqrt(2 * G) * rest - G * rest**2 / 2
    torch.testing.assert_close(sol.ys[-1, 0, 0].item(), expected, rtol=1e-12, atol=0)


def test_an_effect_that_jumps_over_the_surface_is_no_event():
    reset = ss.Event(lambda t, y: y[:, 0] - 1, affect=lambda t, y: y - 2)
    sol = ss.solve(ss.ODE(lambda t, y: torch.ones_like(y)), torch.zeros(1, 1, dtype=F64), span(0, 6), events=reset)
    torch.testing.assert_close(sol.events[0].times[:, 0], span(1, 3, 5), rtol=0, atol=1e-14)
    torch.testing.assert_close(sol.ys[-1], torch.zeros(1, 1, dtype=F64), rtol=0, atol=1e-14)


@pytest.mark.parametrize("shared", [False, True])
def test_events_at_one_time_happen_one_after_the_other_in_the_order_of_the_list(shared):
    double = ss.Event(lambda t, y: y[:, 0] - 1, affect=lambda t, y: torch.stack([y[:, 0], 2 * y[:, 1]], 1))
    add = ss.Event(lambda t, y: 3 * (y[:, 0] - 1), affect=lambda t, y: torch.stack([y[:, 0], y[:, 1] + 3], 1))
    f = lambda t, y: torch.stack([torch.ones_like(y[:, 0]), torch.zeros_like(y[:, 0])], 1)
    y0 = torch.tensor([[0.0, 1.0], [0.0, 1.0], [-0.3, 1.0]], dtype=F64)
    for events, expected in (([double, add], 5.0), ([add, double], 8.0)):
        sol = ss.solve(ss.ODE(f), y0, span(0, 2), events=events, shared_steps=shared)
        assert sol.ys[-1, :, 1].tolist() == [expected] * 3
        assert [event.counts.tolist() for event in sol.events] == [[1, 1, 1]] * 2


@pytest.mark.parametrize("shared", [False, True])
def test_what_rounding_makes_of_a_condition_does_not_change_the_order_of_the_list(shared):
    heights = torch.linspace(1, 2, 7, dtype=F64)
    y0 = torch.stack([heights, torch.zeros_like(heights)], 1)
    note, end = ss.Event(first, terminal=False), ss.Event(lambda t, y: 1e3 * first(t, y))
    sol = ss.solve(ss.ODE(fall), y0, span(0, 2), events=[note, end], shared_steps=shared)
    assert [event.counts.tolist() for event in sol.events] == [[1] * 7] * 2
    assert (sol.status == ss.Status.EVENT).all()
    torch.testing.assert_close(sol.events[0].times[0], torch.sqrt(2 * heights / G), rtol=1e-12, atol=0)


def test_an_output_at_the_time_of_an_event_is_the_state_behind_it():
    jump = ss.Event(lambda t, y: ss.batch_time(t, y) - 0.5, affect=lambda t, y: y + 10)
    sol = ss.solve(ss.ODE(lambda t, y: torch.ones_like(y)), torch.zeros(2, 1, dtype=F64), span(0, 0.5, 1), events=jump)
    torch.testing.assert_close(sol.ys[:, 0, 0], span(0, 10.5, 11), rtol=1e-15, atol=0)
    torch.testing.assert_close(sol.events[0].ys[0, :, 0], span(0.5, 0.5), rtol=0, atol=2e-16)


def test_bounces_faster_than_time_end_with_a_status():
    """Their times converge to 3 times that of the first one: Zeno."""
    sol = ss.solve(ss.ODE(fall), dropped(1.0), span(0, 20), events=bounce(0.5), on_failure="return", **TIGHT)
    assert sol.status.item() == ss.Status.ZENO
    limit = math.sqrt(2 / G) * 3
    count = sol.events[0].counts.item()
    # until a flight is 8 roundings of the last output time
    assert abs(count - math.log(8 * 2.2e-16 * 20 / 0.9) / math.log(0.5)) < 4
    assert abs(sol.events[0].times[count - 1, 0].item() - limit) < 1e-12
    for restitution in (1e-1, 1e-3, 1e-6, 1e-12):
        with pytest.raises(ss.SolveError, match=r"Zeno.*terminal event"):
            ss.solve(ss.ODE(fall), dropped(1.0), span(0, 20), events=bounce(restitution))
    few = ss.solve(ss.ODE(fall), dropped(1.0), span(0, 20), events=bounce(0.9), on_failure="return", max_steps=50)
    assert few.status.item() == ss.Status.MAX_STEPS


def test_the_zeno_limit_of_one_trajectory_does_not_touch_another():
    y0 = dropped(1.0, 300.0)
    sol = ss.solve(ss.ODE(fall), y0, span(0, 10), events=bounce(0.5), on_failure="return", **TIGHT)
    assert sol.status.tolist() == [ss.Status.ZENO, ss.Status.SUCCESS]
    torch.testing.assert_close(sol.ys[-1, 1, 0], ball(y0[1, 0], 0.5, span(10)[0]), rtol=0, atol=1e-9)


def test_effects_of_functions_of_one_trajectory_and_of_pytrees():
    y0 = dropped(1.0, 0.6)
    expected = ss.solve(ss.ODE(fall), y0, span(0, 2), events=bounce(0.8), **TIGHT).ys[-1]
    mapped = ss.solve(ss.ODE(fall, vectorize=True), y0, span(0, 2), events=bounce(0.8), **TIGHT)
    torch.testing.assert_close(mapped.ys[-1], expected, rtol=0, atol=1e-12)
    f = lambda t, y: {"x": y["v"], "v": torch.full_like(y["v"], -G)}
    tree = ss.Event(lambda t, y: y["x"], direction=-1, affect=lambda t, y: {"x": y["x"], "v": -0.8 * y["v"]})
    sol = ss.solve(ss.ODE(f), {"x": y0[:, 0], "v": y0[:, 1]}, span(0, 2), events=tree, **TIGHT)
    torch.testing.assert_close(torch.stack([sol.ys["x"], sol.ys["v"]], 2)[-1], expected, rtol=0, atol=1e-12)


def test_an_effect_sees_its_own_trajectory_at_its_own_time():
    mark = ss.Event(first, affect=lambda t, y: torch.stack([ss.batch_time(t, y) + 100, y[:, 1]], 1))
    y0 = dropped(1.0, 2.0, 3.0)
    sol = ss.solve(
        ss.ODE(lambda t, y: torch.stack([-torch.ones_like(y[:, 0]), 0 * y[:, 1]], 1)), y0, span(0, 3.5), events=mark
    )
    # at t it jumps to t + 100, and falls for the rest
    expected = 100 + y0[:, 0] - (3.5 - y0[:, 0])
    torch.testing.assert_close(sol.ys[-1, :, 0], expected, rtol=0, atol=1e-12)


def test_an_effect_is_asked_for_no_state_but_those_at_events():
    def affect(t, y):
        assert (y[:, 0].abs() < 1e-12).all()
        return torch.stack([y[:, 0], -y[:, 1]], 1)

    sol = ss.solve(
        ss.ODE(fall), dropped(1.0, 0.3, 2.2), span(0, 3), events=ss.Event(first, direction=-1, affect=affect)
    )
    assert sol.success.all() and (sol.events[0].counts > 1).all()


def test_dense_output_jumps_at_an_effect():
    sol = ss.solve(ss.ODE(fall), dropped(1.0), span(0, 3), events=bounce(0.8), dense=True, **TIGHT)
    t = torch.linspace(0.01, 2.99, 200, dtype=F64)
    known = torch.stack([ball(torch.tensor(1.0, dtype=F64), 0.8, time) for time in t])
    torch.testing.assert_close(sol(t)[:, 0, 0], known, rtol=0, atol=1e-10)


@pytest.mark.parametrize("backwards", [False, True])
def test_a_bounce_can_be_taken_backwards(backwards):
    y0, sign = dropped(1.0), -1.0 if backwards else 1.0
    sol = ss.solve(ss.ODE(fall), y0, span(0, 2 * sign), events=bounce(0.8), **TIGHT)
    torch.testing.assert_close(sol.ys[-1, 0, 0], ball(y0[0, 0], 0.8, span(2)[0]), rtol=0, atol=1e-11)
    torch.testing.assert_close(sign * sol.events[0].times[:, 0], bounces(1.0, 0.8, 3), rtol=1e-12, atol=0)


def test_jumps_of_the_right_hand_side_and_events_can_be_at_one_time():
    f = lambda t, y: torch.where(t < 0.5, 1.0, -1.0).to(y).expand_as(y)
    jump = ss.Event(lambda t, y: ss.batch_time(t, y) - 0.5, affect=lambda t, y: 2 * y)
    control = ss.PID(1e-8, 1e-8, jumps=[0.5])
    sol = ss.solve(ss.ODE(f), torch.zeros(1, 1, dtype=F64), span(0, 1), events=jump, controller=control)
    torch.testing.assert_close(sol.ys[-1, 0, 0], span(0.5)[0], rtol=0, atol=1e-12)
