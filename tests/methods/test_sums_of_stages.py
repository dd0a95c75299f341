"""A Runge-Kutta step adds its stages up in two orders: by columns of the tableau eagerly, by rows in compiled code."""

import pytest
import torch

import sdesolve as ss
from sdesolve.interpolate import polynomial
from sdesolve.methods import METHODS, runge_kutta
from sdesolve.methods.method import Increments, State
from sdesolve.methods.runge_kutta import RungeKutta
from sdesolve.state import state_spec
from sdesolve.system import System

KUTTAS = [method for method in METHODS.values() if isinstance(method, RungeKutta)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("own", [False, True], ids=["shared time", "own times"])
@pytest.mark.parametrize("method", KUTTAS, ids=lambda method: method.name)
def test_stages_added_by_columns_and_by_rows_give_the_same_step(monkeypatch, method, own, dtype):
    y = torch.tensor([[0.3, -1.0], [0.7, 0.2], [1.5, 2.0]], dtype=dtype)
    t0 = torch.tensor([0.5, 1.0, -0.3], dtype=torch.float64)[:, None] if own else torch.tensor(0.5, dtype=torch.float64)
    inc = Increments(t0, t0 + 0.1, 0.1 * torch.ones_like(t0))
    spec, _ = state_spec(y, True)
    weight = torch.tensor(0.9, dtype=dtype, requires_grad=True)
    system = System(ss.ODE(lambda t, y: torch.sin(weight * y.flip(-1)) + torch.cos(3 * t) * y), spec)
    asked = []
    estimates = method.error_order is not None

    def step():
        state = State(y, method.init(system, inc.t0, y))
        found = method.step(system, state, inc, error=estimates, dense=True)
        total = found.state.y.abs().sum() + polynomial(torch.tensor(0.4), y, found.dense).abs().sum()
        (slope,) = torch.autograd.grad(total, weight)
        with torch.no_grad():
            plain = method.step(system, state, inc, error=estimates)
        tensors = found.state.y, *found.state.cache, found.error, found.coarse, slope, plain.state.y, plain.error
        return *tensors, plain.coarse, polynomial(torch.tensor(0.7), y, found.dense)

    def never():
        asked.append(1)
        return False

    columns = step()
    monkeypatch.setattr(runge_kutta, "plain_eager", never)
    rows = step()
    assert len(asked) == (2 if method.tableau.dense is None else 3)
    for a, b in zip(columns, rows, strict=True):
        assert (a is None) == (b is None)
        # the coefficients of dense output, up to 10^3 in size, cancel
        assert a is None or torch.allclose(a, b, rtol=1e-14 if method.order < 7 else 2e-13, atol=1e-15)


@pytest.mark.compile
@pytest.mark.traced
@pytest.mark.parametrize("shared", [False, True], ids=["own clocks", "shared clock"])
def test_compiled_adaptive_steps_of_dop853_are_the_eager_ones(shared):
    """With both of its estimates, and so the same steps."""
    y0 = torch.tensor([[0.4, 0.0], [1.0, 0.3], [2.0, -1.0]], dtype=torch.float64)
    ts = torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64)
    ode = ss.ODE(lambda t, y: torch.stack([y[:, 1], -torch.sin(y[:, 0]) + torch.cos(2 * t).reshape(-1)], 1))
    how = {"method": "dop853", "rtol": 1e-8, "atol": 1e-9, "shared_steps": shared}
    eager, compiled = (ss.solve(ode, y0, ts, compile=on, **how) for on in (False, True))
    assert torch.allclose(eager.ys, compiled.ys, rtol=1e-12)
    assert torch.equal(eager.stats.accepted, compiled.stats.accepted)
    assert torch.equal(eager.stats.rejected, compiled.stats.rejected)
