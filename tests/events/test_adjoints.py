"""Events that are only written down, beside other ways of gradients than by the graph of the steps."""

import pytest
import torch

import sdesolve as ss
from tests.events.known import F64, bounce, first, swing

Y = torch.tensor([[1.0, 0.3], [0.6, -0.5]], dtype=F64)
TS = torch.tensor([0.0, 1.7, 4.0], dtype=F64)
SEEN = ss.Event(first, terminal=False)
STEPS = {"adaptive": {"rtol": 1e-9, "atol": 1e-11}, "fixed": {"dt": 0.02}}


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize("adjoint", ["checkpoint", "backsolve"])
def test_gradients_beside_events_that_are_written_down_are_those_of_the_solve(adjoint, steps, shared):
    y0, omega = Y.clone().requires_grad_(), torch.tensor(1.3, dtype=F64, requires_grad=True)
    problem = ss.ODE(lambda t, y: swing(t, y, omega))
    found = []
    for way in ("direct", adjoint):
        sol = ss.solve(problem, y0, TS, events=SEEN, adjoint=way, shared_steps=shared, **steps)
        assert sol.events[0].counts.tolist() == [2, 2]
        found.append((sol, torch.autograd.grad(sol.ys[1:].square().sum(), (y0, omega), retain_graph=True)))
    (direct, wanted), (other, mine) = found
    assert torch.equal(other.ys, direct.ys) and torch.equal(other.events[0].times, direct.events[0].times)
    tolerance = 1e-12 if adjoint == "checkpoint" else 1e-6
    torch.testing.assert_close(mine, wanted, rtol=tolerance, atol=tolerance)
    with pytest.raises(RuntimeError, match=rf"adjoint: got '{adjoint}' where gradients of times.*'direct'"):
        torch.autograd.grad(other.events[0].times.sum(), y0)


def test_a_parameter_of_the_condition_alone_is_not_forgotten():
    level = torch.tensor(0.2, dtype=F64, requires_grad=True)
    event = ss.Event(lambda t, y: y[:, 0] - level, terminal=False)
    sol = ss.solve(ss.ODE(swing), Y, TS, events=event, adjoint="backsolve")
    with pytest.raises(RuntimeError, match="'direct'"):
        sol.events[0].ys.sum().backward()


@pytest.mark.parametrize("adjoint", ["checkpoint", "backsolve", ss.Backsolve(), "reversible"])
@pytest.mark.parametrize("event", [ss.Event(first), bounce(0.5)], ids=["ends", "affects"])
def test_events_that_change_the_solve_are_refused_beside_them(event, adjoint):
    with pytest.raises(ValueError, match=r"adjoint: got .*'direct', or .*terminal=False"):
        ss.solve(ss.ODE(swing), Y, TS, events=event, adjoint=adjoint)


def test_events_beside_reversible_methods_are_refused():
    with pytest.raises(ValueError, match="adjoint: got 'reversible'"):
        ss.solve(ss.ODE(swing), Y, TS, events=SEEN, adjoint="reversible")
