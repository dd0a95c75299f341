"""The evaluations that a solve reports are the calls of the user's functions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sdesolve as ss
from sdesolve.methods import METHODS, Increments, State, names
from sdesolve.state import state_spec
from sdesolve.system import System
from tests.counted import Counted

# those whose iterations differ from trajectory to trajectory are counted in test_esdirk.py
ODE_METHODS = [name for name in names("ode") if not METHODS["ode", name].reports_evaluations]
ADAPTIVE = [name for name in ODE_METHODS if METHODS["ode", name].error_order is not None]


def forced(t, y):
    return torch.cos(3 * t) - y * y * y


@pytest.mark.parametrize("dense", [False, True], ids=["", "dense"])
@pytest.mark.parametrize("name", ODE_METHODS)
@settings(max_examples=8)
@given(dt=st.floats(0.05, 1.0), outputs=st.integers(2, 4))
def test_fixed_steps_report_the_calls_of_f(name, dense, dt, outputs):
    f = Counted(forced)
    sol = ss.solve(ss.ODE(f), torch.ones(3, 2), torch.linspace(0, 1, outputs), dt=dt, method=name, dense=dense)
    assert (sol.stats.drift_evaluations == f.calls).all()
    assert (sol.stats.diffusion_evaluations == 0).all()
    assert (sol.stats.steps == sol.stats.accepted).all() and (sol.stats.rejected == 0).all()


@pytest.mark.parametrize("dense", [False, True], ids=["", "dense"])
@pytest.mark.parametrize("name", ADAPTIVE)
@settings(max_examples=8)
@given(
    first=st.one_of(st.none(), st.floats(1e-3, 2.0)),
    way=st.sampled_from(["shared", "one trajectory", "own clocks"]),
    rate=st.floats(1.0, 8.0),
)
def test_adaptive_steps_report_the_calls_of_f(name, dense, first, way, rate):
    # reversible Heun is not stable where solutions are drawn together
    f = Counted((lambda t, y: torch.cos(rate * y)) if "reversible" in name else (lambda t, y: rate * forced(t, y)))
    y0 = torch.tensor([[0.5], [1.0], [4.0]]) if way != "one trajectory" else torch.tensor([[2.0]])
    sol = ss.solve(
        ss.ODE(f), y0, torch.tensor([0.0, 0.3, 1.0]), dt=first, rtol=1e-2, atol=1e-2, method=name,
        shared_steps=way == "shared", dense=dense, on_failure="return",
    )  # fmt: skip
    stats = sol.stats
    assert torch.equal(stats.steps, stats.accepted + stats.rejected)
    # trajectories with clocks of their own are evaluated together, until the last is done; one call looks for coupling
    probe = 2 if way == "own clocks" else 0
    assert int(stats.drift_evaluations.max()) + probe == f.calls
    if way == "own clocks":
        assert len(set(stats.steps.tolist())) > 1


@pytest.mark.parametrize("dense", [0, 5], ids=["", "dense"])
def test_fixed_steps_of_vern7_leave_out_the_stage_that_its_error_alone_reads(dense):
    """Of eleven stages one is the next step's first, and one has a weight in the embedded method alone: nine a step,
    ten of an adaptive one, and five more for dense output."""
    y0, ts = torch.tensor([[0.3], [1.0]], dtype=torch.float64), torch.tensor([0.0, 0.5], dtype=torch.float64)
    f = Counted(forced)
    ss.solve(ss.ODE(f), y0, ts, dt=0.25, method="vern7", dense=bool(dense))
    assert f.calls == 1 + 2 * (9 + dense)
    f = Counted(forced)
    stats = ss.solve(ss.ODE(f), y0[:1], ts, dt=0.25, rtol=1e-6, method="vern7", dense=bool(dense)).stats
    assert f.calls == 1 + int(stats.steps[0]) * (10 + dense)


def test_a_step_of_vern7_is_the_same_with_its_error_and_without():
    y, t, h = torch.tensor([[0.3], [1.0]], dtype=torch.float64), *torch.tensor([0.2, 0.1], dtype=torch.float64)
    method, system = METHODS["ode", "vern7"], System(ss.ODE(forced), state_spec(y, True)[0])
    state, inc = State(y, method.init(system, t, y)), Increments(t, t + h, h)
    judged, bare = (method.step(system, state, inc, error=error, dense=True) for error in (True, False))
    assert bare.error is None and judged.error.abs().max() > 0
    for a, b in zip(
        (bare.state.y, *bare.state.cache, *bare.dense),
        (judged.state.y, *judged.state.cache, *judged.dense),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("dt, steps", [(0.1, 10), (0.3, 4)])
@pytest.mark.parametrize("name, each", [("euler_maruyama", 1), ("heun", 2)])
@pytest.mark.parametrize("noise", ["diagonal", "scalar", "general"])
def test_euler_maruyama_takes_one_and_heun_two_evaluations_of_drift_and_diffusion_a_step(name, each, noise, dt, steps):
    f = Counted(lambda t, y: -y)
    g = Counted(lambda t, y: torch.stack([y, 0.1 * y, t + 0 * y], -1) if noise == "general" else y)
    calculus = "ito" if name == "euler_maruyama" else "stratonovich"
    sde = ss.SDE(f, g, noise=noise, calculus=calculus)
    sol = ss.solve(sde, torch.ones(5, 2), torch.tensor([0.0, 1.0]), dt=dt, seed=0, method=name)
    assert f.calls == each * steps
    # a general diffusion is asked once how many Brownian motions there are
    assert g.calls == each * steps + (noise == "general")
    assert sol.stats.drift_evaluations.tolist() == [each * steps] * 5
    assert sol.stats.diffusion_evaluations.tolist() == [g.calls] * 5
