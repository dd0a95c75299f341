"""The methods for Langevin dynamics: their steps, the laws that their chains sample, and their orders."""

import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

import sdesolve as ss
from sdesolve.methods import METHODS, Increments, State, choose
from sdesolve.state import state_spec
from sdesolve.system import System
from tests.methods.one_graph import assert_steps_are_one_graph
from validation.check import Settings
from validation.order import fit_order
from validation.sections.langevin import Galerkin, double_well, one_step, stationary_covariance, strong_order

NAMES = ss.methods.made_for("Langevin")
every = pytest.mark.parametrize("name", NAMES)
F64 = torch.float64


def method_of(name):
    return METHODS["sde", name]


def oscillator(k, gamma, temperature):
    return ss.Langevin(lambda x: 0.5 * k * (x * x).sum(-1), gamma=gamma, temperature=temperature)


def system_of(langevin, x, v):
    spec, y = state_spec((x, v), langevin.batched)
    return System(langevin, spec), y


def draw(batch, width, h, seed=0):
    """Increments over [0.4, 0.4 + h]."""
    normal = torch.randn(3, batch, width, generator=torch.Generator().manual_seed(seed), dtype=F64) * h**0.5
    t0, t1, length = (torch.tensor(x, dtype=F64) for x in (0.4, 0.4 + h, h))
    return Increments(t0, t1, length, normal[0], normal[1] / 12**0.5, normal[2] / 720**0.5)


def take(langevin, name, x, v, inc):
    system, y = system_of(langevin, x, v)
    method = method_of(name)
    return method.step(system, State(y, method.init(system, inc.t0, y)), inc).state.y


# ---- one step


@every
@settings(max_examples=15)
@given(gamma=st.floats(0.01, 20), temperature=st.floats(0, 5), h=st.sampled_from([0.3, 0.05, -0.2]))
def test_a_step_is_the_composition_of_the_flows(name, gamma, temperature, h):
    """Of a splitting: A, B and O, one after the other. Of quicsort: numbers alone, by its formula."""
    force = lambda x: -np.sin(x) - x
    inc = draw(3, 2, abs(h))
    inc = inc._replace(h=torch.tensor(h, dtype=F64), t1=inc.t0 + h)
    W, H, K = (part[:, 1:].numpy() for part in inc[3:6])
    x = np.array([[0.5], [-1.0], [2.0]])
    v = np.array([[1.0], [0.2], [-0.7]])
    start = [torch.from_numpy(a.copy()) for a in (x, v)]
    langevin = ss.Langevin(lambda x: (0.5 * x * x - torch.cos(x)).sum(-1), gamma=gamma, temperature=temperature)
    found = take(langevin, name, *start, inc)

    def o(v, s, increment):
        # a standard normal times the standard deviation; backwards in time the flow expands
        return np.exp(-gamma * s) * v + np.sqrt(temperature * abs(np.expm1(-2 * gamma * s)) / abs(s)) * increment

    if name == "baoab":
        v = v + h / 2 * force(x)
        x = x + h / 2 * v
        v = o(v, h, W)
        x = x + h / 2 * v
        v = v + h / 2 * force(x)
    elif name == "obabo":
        v = o(v, h / 2, W / 2 + np.sqrt(3) * H)
        v = v + h / 2 * force(x)
        x = x + h * v
        v = v + h / 2 * force(x)
        v = o(v, h / 2, W / 2 - np.sqrt(3) * H)
    else:
        a = lambda s: float((1 - mpmath.exp(-gamma * mpmath.mpf(s))) / gamma)
        b = lambda s: float((s - (1 - mpmath.exp(-gamma * mpmath.mpf(s))) / gamma) / gamma)
        E, sigma = lambda s: np.exp(-gamma * s), np.sqrt(2 * gamma * temperature)
        c, d = 0.5 - 1 / 12**0.5, 0.5 + 1 / 12**0.5
        u, line = v + sigma * (H + 6 * K), sigma * (W - 12 * K) / h
        f = force(x + a(c * h) * u + b(c * h) * line)
        f2 = force(x + a(d * h) * u + b(d * h) * line + a(h / 3) * h * f)
        x = x + a(h) * u + b(h) * line + h / 2 * (a(d * h) * f + a(c * h) * f2)
        v = E(h) * u + a(h) * line + h / 2 * (E(d * h) * f + E(c * h) * f2) - sigma * (H - 6 * K)
    assert np.abs(found.numpy() - np.concatenate([x, v], 1)).max() < 1e-12 * (1 + gamma + temperature)


def test_a_step_of_quicsort_solves_the_shifted_ode_with_a_local_error_of_order_four():
    """Against SciPy, along the path of a jump, a line and a jump that has the same W, H and K."""
    gamma, temperature, unit = 1.7, 0.6, draw(1, 2, 1.0)
    sigma, errors = math.sqrt(2 * gamma * temperature), []
    langevin = ss.Langevin(force=lambda x: -torch.sin(2 * x) - x**3, gamma=gamma, temperature=temperature)
    steps = [0.4 * 2**-k for k in range(5)]
    for h in steps:
        # noise of one size at all steps, so that the order is that of the ODE
        inc = Increments(unit.t0, unit.t0 + h, torch.tensor(h, dtype=F64), *(h * part for part in unit[3:6]))
        W, H, K = (float(part[0, 1]) for part in inc[3:6])
        start = torch.tensor([[0.6]], dtype=F64), torch.tensor([[-0.3]], dtype=F64)
        slope = sigma * (W - 12 * K) / h
        ode = lambda t, y, slope=slope: [y[1], -gamma * y[1] - math.sin(2 * y[0]) - y[0] ** 3 + slope]
        x, v = solve_ivp(ode, (0, h), [0.6, -0.3 + sigma * (H + 6 * K)], "DOP853", rtol=1e-13, atol=1e-14).y[:, -1]
        found = take(langevin, "quicsort", *start, inc)[0].tolist()
        errors.append(math.hypot(found[0] - x, found[1] - (v - sigma * (H - 6 * K))))
    assert abs(fit_order(steps, errors).order - 4) < 0.15, errors


@every
@pytest.mark.parametrize("temperature", [0.0, 0.5])
def test_a_step_of_length_zero_returns_the_state_and_has_finite_gradients(name, temperature):
    x, v = torch.randn(2, 2, 3, dtype=F64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    gamma, heat = (torch.tensor(z, dtype=F64, requires_grad=True) for z in (0.7, temperature))
    langevin = ss.Langevin(lambda x: (x**4).sum(-1), gamma=gamma, temperature=heat)
    h = torch.tensor([[0.0], [0.1]], dtype=F64)
    inc = draw(2, 6, 0.1)
    inc = Increments(0 * h, h, h, *(part * (h > 0) for part in inc[3:6]))
    y1 = take(langevin, name, x, v, inc)
    assert torch.equal(y1[0], torch.cat([x[0], v[0]])) and (y1[1, :3] != x[1]).all()
    for g in torch.autograd.grad(y1.square().sum(), (x, v, gamma, heat)):
        assert g.isfinite().all()


# ---- the laws that chains sample


@settings(max_examples=40)
@given(
    k=st.floats(0.05, 4),
    gamma=st.floats(0.02, 10),
    temperature=st.floats(0.01, 3),
    h=st.floats(0.05, 0.9),
)
def test_splittings_sample_their_shadows_of_a_gaussian_exactly(k, gamma, temperature, h):
    """With q = 1 - k h^2/4, Verlet keeps  q k x^2 + v^2:  obabo has the variances T/(k q) and T, baoab T/k and T q."""
    q = 1 - k * h * h / 4
    langevin = oscillator(k, gamma, temperature)
    wanted = {"obabo": np.diag([1 / (k * q), 1]), "baoab": np.diag([1 / k, q])}
    for name, covariance in wanted.items():
        found = stationary_covariance(langevin, method_of(name), 1, h)
        assert found == pytest.approx(temperature * covariance, rel=1e-9, abs=1e-9 * temperature)


@given(gamma=st.floats(0.01, 30), temperature=st.floats(0.0, 3), h=st.floats(0.01, 2))
def test_without_a_force_splittings_give_v_the_law_of_ornstein_and_uhlenbeck(gamma, temperature, h):
    free = ss.Langevin(force=torch.zeros_like, gamma=gamma, temperature=temperature)
    for name in ("baoab", "obabo"):
        method = method_of(name)
        parts = 2 if method.levy else 1
        mean = one_step(free, method, np.array([[0.0, 1.0]]), np.zeros((parts, 1, 1)), h)[0, 1]
        noise = one_step(free, method, np.zeros((parts, 2)), np.eye(parts)[:, :, None], h)[:, 1]
        assert mean == pytest.approx(math.exp(-gamma * h), rel=1e-12)
        assert noise @ noise == pytest.approx(-temperature * math.expm1(-2 * gamma * h), rel=1e-11, abs=1e-15)


@pytest.mark.parametrize(("name", "order"), [("baoab", 2), ("obabo", 2), ("quicsort", 3)])
def test_stationary_covariance_converges_with_its_order(name, order):
    steps = [2.0**-k for k in range(3, 9)]
    langevin, target = oscillator(1.5, 1.2, 0.8), np.diag([0.8 / 1.5, 0.8])
    errors = [np.abs(stationary_covariance(langevin, method_of(name), 1, h) - target).max() for h in steps]
    assert abs(fit_order(steps, errors).order - order) < 0.1


@pytest.mark.parametrize("name", ["baoab", "obabo"])
def test_bias_in_the_double_well_is_of_order_two(name):
    steps = [0.14 * 2 ** (-k / 2) for k in range(4)]
    sizes = Galerkin(x=12, v=8, nodes_x=20, nodes_v=14)
    biases = [abs(sizes.squares(double_well(), method_of(name), h)[1]) for h in steps]
    assert abs(fit_order(steps, biases).order - 2) < 0.1


def test_galerkins_target_is_that_of_quadrature_and_its_bias_that_of_a_long_simulation():
    """At steps so long that 1 % is missing."""
    h, n = 0.2, 20_000
    square, bias = Galerkin().squares(double_well(), method_of("obabo"), h)
    assert square == pytest.approx(0.83274548713, abs=1e-10)
    start = torch.zeros(n, 1, dtype=F64)
    ts = torch.arange(0, 21, 2, dtype=F64)
    squares = ss.solve(double_well(), (start, start), ts, dt=h, method="obabo", seed=2).ys[0][3:].square().mean(0)
    error = float(squares.std()) / n**0.5
    assert abs(float(squares.mean()) - (square + bias)) < 3 * error < abs(bias)


# ---- along a path


@every
def test_strong_error_falls_with_the_order_of_the_method(name):
    (check,) = strong_order(method_of(name), Settings(quick=True))
    assert abs(check.measured - method_of(name).order) < 0.15


def test_quicsort_agrees_with_another_method_on_the_solution_along_a_path():
    """SRA1, of order 2 here, comes as close to it as steps of 1/512 allow."""
    path = ss.BrownianPath(5, (50, 2), cell=2.0**-9, levy="space-time-time", dtype=F64)
    start, ts = (torch.full((50, 1), 0.3, dtype=F64), torch.zeros(50, 1, dtype=F64)), torch.tensor([0.0, 1.0])
    ends = [
        torch.cat(ss.solve(double_well(), start, ts, dt=dt, method=name, brownian=path).ys, -1)[-1]
        for name, dt in (("sra1", 2.0**-9), ("quicsort", 2.0**-5), ("baoab", 2.0**-5))
    ]
    assert (ends[0] - ends[1]).abs().mean() < 1e-4 < 1e-2 < (ends[0] - ends[2]).abs().mean()


def test_the_halves_of_a_step_of_obabo_take_the_noise_of_the_halves_of_the_path():
    """With the two exchanged the error along a path is several times as large."""
    path = ss.BrownianPath(7, (300, 2), cell=2.0**-6, levy="space-time", dtype=F64)
    start, ts = (torch.zeros(300, 1, dtype=F64), torch.zeros(300, 1, dtype=F64)), torch.tensor([0.0, 1.0])
    langevin = oscillator(1.0, 1.3, 0.7)
    end = lambda dt, method: torch.cat(ss.solve(langevin, start, ts, dt=dt, method=method, brownian=path).ys, -1)[-1]

    class Exchanged(type(method_of("obabo"))):
        def step(self, system, state, inc, *, error=False, dense=False):
            return super().step(system, state, inc._replace(H=-inc.H))

    right = end(2.0**-6, "sra1")
    errors = [float((end(2.0**-4, m) - right)[:, 1].abs().mean()) for m in (method_of("obabo"), Exchanged())]
    assert errors[1] > 3 * errors[0]


def there_and_back(name, dt):
    """How far from its start a solve to 1 and back along the path ends."""
    path = ss.BrownianPath(3, (200, 2), cell=2.0**-7, levy="space-time-time", dtype=F64)
    y, ts = (torch.full((200, 1), 0.5, dtype=F64), torch.zeros(200, 1, dtype=F64)), torch.tensor([0.0, 1.0], dtype=F64)
    start = y
    for times in (ts, ts.flip(0)):
        y = tuple(z[-1] for z in ss.solve(double_well(), y, times, dt=dt, method=name, brownian=path).ys)
    return float(sum((a - b).square().mean() for a, b in zip(y, start, strict=True)).sqrt())


@pytest.mark.parametrize("name", ["baoab", "obabo"])
def test_a_solve_back_along_the_path_undoes_the_steps_of_a_splitting(name):
    assert there_and_back(name, 0.1) < 1e-12


def test_a_solve_back_along_the_path_returns_to_the_start_to_the_order_of_quicsort():
    steps = [2.0**-k for k in range(3, 8)]
    errors = [there_and_back("quicsort", dt) for dt in steps]
    assert 2.8 < fit_order(steps, errors).order < 4.2, errors


# ---- what a step costs, and where it runs


@every
def test_evaluations_are_the_calls_of_the_force(name):
    calls = []
    langevin = ss.Langevin(force=lambda x: calls.append(1) or -x, gamma=1.0)
    start = torch.ones(3, 2), torch.zeros(3, 2)
    sol = ss.solve(langevin, start, torch.tensor([0.0, 0.5, 1.0]), dt=0.1, method=name, seed=0)
    assert sol.stats.drift_evaluations.tolist() == [len(calls)] * 3
    assert len(calls) == (20 if name == "quicsort" else 11)
    assert (sol.stats.diffusion_evaluations == 0).all()


@pytest.mark.parametrize(("name", "given"), [("baoab", "potential"), ("obabo", "force"), ("quicsort", "force")])
def test_a_compiled_loop_takes_the_steps_as_one_graph(name, given):
    functions = {"potential": lambda x: (x**4 / 4).sum(-1), "force": lambda x: -(x**3)}
    gamma = torch.tensor([0.5, 1.0], dtype=F64)
    langevin = ss.Langevin(**{given: functions[given]}, gamma=gamma, temperature=0.4)
    start = torch.randn(2, 4, 2, generator=torch.Generator().manual_seed(2), dtype=F64)
    system, y = system_of(langevin, *start)
    assert_steps_are_one_graph(method_of(name), system, y, draw(4, 4, 0.1))


# ---- which method for which problem


def test_the_default_for_langevin_dynamics_is_baoab_and_every_sde_method_can_be_chosen():
    system, _ = system_of(double_well(), torch.zeros(2, 1), torch.zeros(2, 1))
    assert choose(system, None).name == "baoab"
    for name in (*NAMES, "euler_maruyama", "sra1", "heun", "shark"):
        assert choose(system, name).name == name


@every
def test_a_langevin_method_is_refused_for_other_problems(name):
    sde = ss.SDE(lambda t, y: -y, lambda t, y: torch.ones_like(y), additive=True)
    system = System(sde, state_spec(torch.zeros(2, 1), True)[0])
    for method in (name, method_of(name)):
        with pytest.raises(ValueError, match=r"ss\.Langevin"):
            choose(system, method)


def test_adaptive_steps_point_to_methods_that_have_an_error_estimate():
    with pytest.raises(ValueError, match=r"no error estimate.*sra1"):
        ss.solve(double_well(), (torch.zeros(2, 1), torch.zeros(2, 1)), torch.tensor([0.0, 1.0]), rtol=1e-2)


def test_the_table_lists_them():
    assert all(name in ss.methods.table("sde") for name in NAMES)
