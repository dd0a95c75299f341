"""SciPy as an oracle, where a tableau is the same: steps, dense output, error estimates, and the number of steps."""

import numpy as np
import pytest
import torch
from scipy.integrate import DOP853, RK23, RK45, solve_ivp

import sdesolve as ss
from sdesolve.methods import METHODS, Increments, State
from sdesolve.state import state_spec
from sdesolve.step_size import PID, damped, rms, scaled
from sdesolve.system import System

F64 = torch.float64
SAME = {"bosh3": RK23, "dopri5": RK45, "dop853": DOP853}
same = pytest.mark.parametrize("name", SAME)
H = 0.4


def forced(t, y):
    """A forced pendulum of two angles of very different size."""
    a, b, u, v = np.moveaxis(np.asarray(y), -1, 0)
    return np.stack([u, v, -np.sin(a) + 1e-3 * b + np.cos(2 * t), 50 * a - 2 * b - 0.1 * v], -1)


def ours(f):
    return ss.ODE(lambda t, y: torch.as_tensor(f(t.item(), y.numpy())), batched=False)


def scipys_step(name, sign, rtol=1e2, atol=1e2):
    """One step of length H, at a tolerance that any step meets."""
    solver = SAME[name](forced, 0.5, START, 0.5 + sign * 10 * H, first_step=H, rtol=rtol, atol=atol)
    solver.step()
    assert np.isclose(solver.t, 0.5 + sign * H)
    return solver


START = np.array([0.3, 20.0, -1.0, 5.0])


@same
@pytest.mark.parametrize("sign", [1, -1])
def test_a_step_and_its_dense_output_are_scipys(name, sign):
    peer = scipys_step(name, sign)
    ts = torch.tensor([0.5, 0.5 + sign * H], dtype=F64)
    sol = ss.solve(ours(forced), torch.as_tensor(START), ts, method=name, dt=H, dense=True)
    assert np.allclose(sol.ys[-1], peer.y, rtol=1e-14, atol=1e-14)
    between = 0.5 + sign * H * np.linspace(0, 1, 9)
    # the coefficients of the polynomial in theta cancel, by up to 10^3
    assert np.allclose(sol(torch.as_tensor(between)), peer.dense_output()(between).T, rtol=1e-12, atol=1e-12)


@same
@pytest.mark.parametrize("atol", [1e-1, 1e-6])
def test_the_ratio_of_error_to_tolerance_is_scipys(name, atol):
    """SciPy's next step is h * 0.9 / ratio^(1/k), from which its ratio follows; components differ 100 times in size."""
    rtol = 0.3 if name == "bosh3" else 3e-3
    peer = scipys_step(name, 1, rtol, atol)
    method, y = METHODS["ode", name], torch.as_tensor(START)
    wanted = (0.9 * H / peer.h_abs) ** method.error_order
    assert peer.h_abs < 9 * H  # where it is not bounded
    spec, _ = state_spec(y, False)
    system, t0 = System(ours(forced), spec), torch.tensor(0.5, dtype=F64)
    inc = Increments(t0, t0 + H, torch.tensor(H, dtype=F64))
    step = method.step(system, State(y, method.init(system, t0, y)), inc, error=True)
    sizes = [
        rms(scaled(error, y, step.state.y, PID(rtol, atol)), spec)
        for error in (step.error, step.coarse)
        if error is not None
    ]
    ratio = sizes[0] if len(sizes) == 1 else damped(*sizes)
    assert np.isclose(float(ratio), wanted, rtol=1e-9)


def two_bodies(t, y):
    """An orbit of eccentricity 0.6 from its pericentre."""
    x, v = y[..., :2], y[..., 2:]
    return np.concatenate([v, -x / (x * x).sum(-1, keepdims=True) ** 1.5], -1)


def lotka_volterra(t, y):
    x, z = y[..., :1], y[..., 1:]
    return np.concatenate([1.5 * x - x * z, x * z - 3 * z], -1)


def van_der_pol(t, y):
    x, v = y[..., :1], y[..., 1:]
    return np.concatenate([v, 5 * (1 - x * x) * v - x], -1)


def steps_of(f, y0, tolerance, **gains):
    """Steps, and accepted ones, of this library over SciPy's."""
    peer = solve_ivp(f, (0.0, 20.0), y0, "DOP853", rtol=tolerance, atol=tolerance)
    control, ts = PID(tolerance, tolerance, **gains), torch.tensor([0.0, 20.0], dtype=F64)
    stats = ss.solve(ours(f), torch.tensor(y0, dtype=F64), ts, method="dop853", controller=control).stats
    # two evaluations find the first step, and a step takes twelve
    return stats.steps.item() / ((peer.nfev - 2) / 12), stats.accepted.item() / (len(peer.t) - 1)


@pytest.mark.parametrize("tolerance", [1e-6, 1e-9, 1e-12])
@pytest.mark.parametrize("f, y0", [(two_bodies, [0.4, 0.0, 0.0, 2.0]), (lotka_volterra, [2.0, 1.0])])
def test_dop853_takes_as_many_steps_as_scipys(f, y0, tolerance):
    taken, _ = steps_of(f, y0, tolerance)
    assert 0.9 < taken < 1.1


@pytest.mark.parametrize("tolerance", [1e-6, 1e-9, 1e-12])
@pytest.mark.parametrize("f, y0", [(lotka_volterra, [2.0, 1.0]), (van_der_pol, [2.0, 0.0])])
def test_with_scipys_controller_dop853_takes_its_steps(f, y0, tolerance):
    """An integral one; where the first step differs, the others settle to within 5 %."""
    assert all(0.95 < ratio < 1.05 for ratio in steps_of(f, y0, tolerance, p=0.0, i=1.0))


def test_a_coarse_estimate_damps_the_fine_one_and_never_raises_it():
    fine, coarse = (
        torch.tensor([0.0, 2.0, 2.0, 3.0, 1e-200], dtype=F64),
        torch.tensor([0.0, 0.0, 1.5, 4e9, 1e-200], dtype=F64),
    )
    found = damped(fine, coarse)
    assert torch.allclose(found[:4], torch.tensor([0.0, 2.0, 1.6, 9 / 4e9], dtype=F64), rtol=1e-14)
    assert 0 <= found[4] <= fine[4]
    assert damped(torch.tensor([torch.nan]), torch.tensor([1.0])).isnan().all()
