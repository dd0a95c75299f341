"""A Runge-Kutta step adds its stages up in two orders: by columns of the tableau eagerly, by rows in compiled code."""

import pytest
import torch

import sdesolve as ss
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

    def step():
        state = State(y, method.init(system, inc.t0, y))
        found = method.step(system, state, inc, error=method.error_order is not None)
        (slope,) = torch.autograd.grad(found.state.y.abs().sum(), weight)
        with torch.no_grad():
            plain = method.step(system, state, inc, error=method.error_order is not None)
        return found.state.y, *found.state.cache, found.error, slope, plain.state.y, plain.error

    def never():
        asked.append(1)
        return False

    columns = step()
    monkeypatch.setattr(runge_kutta, "plain_eager", never)
    rows = step()
    assert len(asked) == 2
    for a, b in zip(columns, rows, strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.allclose(a, b, rtol=1e-14, atol=1e-15)
