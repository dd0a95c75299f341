"""Methods whose steps can be taken back: their order, and that they come back to where they started."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sdesolve as ss
from sdesolve.methods import METHODS, Coupled, RungeKutta, names
from sdesolve.methods.reversible import Behind, Increments, State, Taken
from sdesolve.state import state_spec
from sdesolve.system import System
from tests.methods.test_convergence import exact, lengths, slope, whirl

F64 = torch.float64
EXPLICIT = [name for name in names("ode") if isinstance(METHODS["ode", name], RungeKutta)]
METHODS_ = [METHODS["ode", "reversible_heun"], *(Coupled(METHODS["ode", name], 0.99) for name in EXPLICIT)]


@pytest.mark.parametrize("name", EXPLICIT)
def test_coupled_methods_keep_their_order(name):
    order = METHODS["ode", name].order
    radius, ts = torch.linspace(0.5, 1.5, 5, dtype=F64), torch.tensor([0.0, 2.0], dtype=F64)
    steps, errors = lengths(order), []
    for dt in steps:
        sol = ss.solve(ss.ODE(whirl), exact(radius, 0.0), ts, dt=dt, method=Coupled(METHODS["ode", name]))
        errors.append(float((sol.ys[-1] - exact(radius, 2.0)).norm(dim=-1).max()))
    # the coupled solutions' errors cancel in part where the order is odd, the more the longer the steps
    assert order - 0.15 < slope(steps, errors) < order + 1, errors


@settings(max_examples=30)
@given(rate=st.floats(-2, 2), steps=st.integers(1, 6), coupling=st.floats(0.5, 1.0))
def test_steps_on_a_linear_problem_are_the_recursions_of_the_papers(rate, steps, coupling):
    """With z = h rate: reversible Heun, and Euler's method coupled, in plain numbers."""
    found = {}
    for method in (METHODS["ode", "reversible_heun"], Coupled(METHODS["ode", "euler"], coupling)):
        ts = torch.tensor([0.0, steps / 4], dtype=F64)
        sol = ss.solve(
            ss.ODE(lambda t, y: rate * y), torch.ones(1, 1, dtype=F64), ts, dt=0.25, method=method, on_failure="return"
        )
        found[method.name] = sol.ys[-1].item()
    h, y, z = rate / 4, 1.0, 1.0
    for _ in range(steps):
        z1 = 2 * y - z + h * z
        y, z = y + 0.5 * h * (z + z1), z1
    assert math.isclose(found["reversible_heun"], y, rel_tol=1e-12, abs_tol=1e-12)
    y, z = 1.0, 1.0
    for _ in range(steps):
        y = coupling * y + (1 - coupling) * z + h * z
        z = z + h * y
    assert math.isclose(found["reversible euler"], y, rel_tol=1e-12, abs_tol=1e-12)


SDES = {
    "diagonal": lambda t, y: 0.5 * torch.cos(y + t),
    "scalar": lambda t, y: 0.5 * torch.cos(y.flip(-1)),
    "general": lambda t, y: torch.stack([torch.sin(y), y.flip(-1), t + 0 * y], -1),
}


def problem(kind):
    drift = lambda t, y: torch.tanh(y.flip(-1)) - t
    if kind == "ode":
        return ss.ODE(drift)
    return ss.SDE(drift, SDES[kind], noise=kind, calculus="stratonovich")


@pytest.mark.parametrize("kind", ["ode", *SDES])
def test_undoing_steps_comes_back_to_where_they_started(kind):
    generator = torch.Generator().manual_seed(3)
    spec, y0 = state_spec(torch.linspace(-1, 1, 6, dtype=F64).reshape(3, 2), True)
    system = System(problem(kind), spec)
    methods = METHODS_ if kind == "ode" else [METHODS["sde", "reversible_heun"], Coupled(METHODS["sde", "heun"])]
    shape = {"ode": None, "diagonal": (3, 2), "scalar": (3, 1), "general": (3, 3)}[kind]

    def pull(function, x):
        outputs = function(x)
        return outputs, lambda gradients: torch.zeros_like(x)

    for method in methods:
        times = torch.linspace(0, 1, 21, dtype=F64)
        state, incs, states = State(y0, method.init(system, times[0], y0)), [], []
        for t0, t1 in pairwise(times):
            w = None if shape is None else 0.2 * torch.randn(shape, dtype=F64, generator=generator)
            incs.append(Increments(t0, t1, t1 - t0, w))
            states.append(state)
            state = method.step(system, state, incs[-1]).state
        at = Behind(state, State(torch.zeros_like(y0), tuple(map(torch.zeros_like, state.cache))))
        for inc, wanted in zip(reversed(incs), reversed(states), strict=True):
            at = method.undo(system, inc, at, Taken(None), pull)
            for x, y in zip((at.state.y, *at.state.cache), (wanted.y, *wanted.cache), strict=True):
                torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)


def test_what_cannot_be_coupled_is_refused():
    with pytest.raises(ValueError, match="method: got 'milstein' to be made reversible"):
        Coupled(METHODS["sde", "milstein"])
    for coupling in (0, -1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="coupling: got"):
            Coupled(METHODS["ode", "rk4"], coupling)
    with pytest.raises(TypeError, match="coupling: got True"):
        ss.Reversible(True)
    with pytest.raises(ValueError, match=r"coupling: got 2"):
        ss.Reversible(2)


@pytest.mark.parametrize("method", ["reversible_heun", Coupled(METHODS["ode", "tsit5"])])
def test_dense_output_of_reversible_methods(method):
    ts = torch.tensor([0.0, 1.0], dtype=F64)
    sol = ss.solve(ss.ODE(whirl), exact(torch.ones(2, dtype=F64), 0.0), ts, dt=0.01, method=method, dense=True)
    for t in (0.0, 0.123, 0.777, 1.0):
        torch.testing.assert_close(
            sol(torch.tensor(t, dtype=F64)), exact(torch.ones(2, dtype=F64), t), rtol=0, atol=1e-4
        )
