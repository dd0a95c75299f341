"""Autograd through the steps: against finite differences, closed forms, and under torch.func."""

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

import sdesolve as ss
from sdesolve.methods import METHODS, names

F64 = torch.float64
ODE_METHODS = [name for name in names("ode") if not METHODS["ode", name].adaptive_only]
SEEDS = st.integers(0, 2**64 - 1)
TS = torch.tensor([0.0, 0.4, 1.0], dtype=F64)


def inputs():
    y0 = torch.tensor([[0.5, -0.3], [1.0, 0.2]], dtype=F64, requires_grad=True)
    a = torch.tensor([[0.3, 1.0], [-1.2, 0.1]], dtype=F64, requires_grad=True)
    return y0, a


def ode(a):
    return ss.ODE(lambda t, y: torch.tanh((a * y[:, None, :]).sum(-1)) + torch.cos(t))


def sde(a, noise, calculus):
    g = {
        "diagonal": lambda t, y: 0.3 * torch.cos(a[0] * y),
        "scalar": lambda t, y: 0.3 * torch.cos(a[0] * y.flip(-1)),
        "general": lambda t, y: 0.3 * torch.stack([torch.cos(a[1] * y), a[0] * y.flip(-1)], -1),
    }[noise]
    return ss.SDE(lambda t, y: torch.tanh((a * y[:, None, :]).sum(-1)), g, noise=noise, calculus=calculus)


@pytest.mark.parametrize("name", ODE_METHODS)
def test_gradients_of_fixed_steps_are_those_of_finite_differences(name):
    def run(y0, a):
        return ss.solve(ode(a), y0, TS, method=name, dt=0.15).ys

    assert gradcheck(run, inputs())


@pytest.mark.parametrize(
    "name, tol, shared",
    [("bosh3", 1e-8, False), ("tsit5", 1e-10, False), ("tsit5", 1e-10, True), ("dopri5", 1e-10, False)],
)
def test_gradients_of_adaptive_steps_are_those_of_finite_differences_up_to_the_tolerance(name, tol, shared):
    """Steps count as constant. The number that moves by 1e-3 also moves the steps, so the error of the solve, 10 tol at
    most, enters a difference quotient as 1e4 tol; its own error is 1e-6 times the third derivative."""

    def run(y0, a):
        return ss.solve(ode(a), y0, TS, method=name, rtol=tol, atol=tol, shared_steps=shared).ys[-1]

    assert gradcheck(run, inputs(), eps=1e-3, atol=5e-6 + 1e4 * tol, rtol=0)


@pytest.mark.parametrize("noise", ["diagonal", "scalar", "general"])
@pytest.mark.parametrize(
    "calculus, method",
    [
        ("ito", "euler_maruyama"),
        ("ito", None),
        ("stratonovich", "heun"),
        ("ito by conversion", "euler_maruyama"),
        ("ito by conversion", None),
        ("stratonovich by conversion", "heun"),
    ],
)
def test_gradients_of_sde_solves_are_those_of_finite_differences_on_a_fixed_path(noise, calculus, method):
    def run(y0, a):
        kind, *convert = calculus.split(" by ")
        other = "stratonovich" if kind == "ito" else "ito"
        problem = sde(a, noise, other).to_calculus(kind) if convert else sde(a, noise, kind)
        return ss.solve(problem, y0, TS, dt=0.2, seed=3, method=method).ys

    assert gradcheck(run, inputs())


@settings(max_examples=10)
@given(rate=st.floats(-2, 2), start=st.floats(0.5, 3), method=st.sampled_from(["tsit5", "dopri5"]))
def test_gradients_of_the_linear_ode_are_the_closed_forms(rate, start, method):
    """y = y_0 e^(a t): dy/dy_0 = e^(a t), dy/da = t y."""
    y0 = torch.tensor([[start], [2.0]], dtype=F64, requires_grad=True)
    a = torch.tensor(rate, dtype=F64, requires_grad=True)
    y = ss.solve(ss.ODE(lambda t, y: a * y), y0, 1.5 * TS, method=method, rtol=1e-10, atol=1e-10).ys[-1]
    dy0, da = torch.autograd.grad(y[0].sum(), (y0, a))
    growth = torch.tensor(1.5 * rate, dtype=F64).exp()
    assert torch.allclose(dy0, torch.stack([growth, 0 * growth])[:, None], rtol=1e-7, atol=1e-12)
    assert torch.allclose(da, 1.5 * start * growth, rtol=1e-7, atol=1e-7)


@settings(max_examples=10)
@given(seed=SEEDS, steps=st.integers(1, 20), theta=st.floats(0.1, 2), sigma=st.floats(0.1, 2))
def test_gradients_of_ornstein_uhlenbeck_are_the_closed_forms_path_by_path(seed, steps, theta, sigma):
    """X_N = r^N x + sigma sum r^(N-1-n) dW_n with r = 1 - theta h: all three derivatives from the increments."""
    h = 1 / steps
    path = ss.BrownianPath(seed, (4, 1), cell=h, dtype=F64)
    x, th, s = (torch.tensor(v, dtype=F64, requires_grad=True) for v in (1.5, theta, sigma))
    problem = ss.SDE(lambda t, y: -th * y, lambda t, y: s.expand(y.shape), additive=True)
    end = ss.solve(problem, x.expand(4, 1), TS[[0, 2]], dt=h, brownian=path, method="euler_maruyama").ys[-1]
    w, r, n = path.increments(0, steps)[..., 0], 1 - theta * h, torch.arange(steps, dtype=F64)
    power = (steps - 1 - n)[:, None]
    for i in range(4):
        dx, dth, ds = torch.autograd.grad(end[i, 0], (x, th, s), retain_graph=True)
        assert torch.allclose(dx, torch.tensor(r**steps, dtype=F64), atol=1e-12)
        assert torch.allclose(ds, (r**power * w)[:, i].sum(), atol=1e-10)
        inner = torch.where(power > 0, power * torch.tensor(r, dtype=F64) ** (power - 1).clamp(min=0), 0 * power)
        wanted = -h * (steps * r ** (steps - 1) * 1.5 + sigma * (inner * w)[:, i].sum())
        assert torch.allclose(dth, wanted, atol=1e-9)


@settings(max_examples=10)
@given(seed=SEEDS, mu=st.floats(-1, 1), sigma=st.floats(0.1, 1))
def test_gradients_of_geometric_brownian_motion_tend_to_the_closed_forms_path_by_path(seed, mu, sigma):
    """Of the product: d log X_N / d mu = sum h / (1 + z_n), d log X_N / d sigma = sum dW_n / (1 + z_n)."""
    h = 1 / 32
    path = ss.BrownianPath(seed, (4, 1), cell=h, dtype=F64)
    m, s = (torch.tensor(v, dtype=F64, requires_grad=True) for v in (mu, sigma))
    problem = ss.SDE(lambda t, y: m * y, lambda t, y: s * y)
    y0 = torch.ones(4, 1, dtype=F64)
    end = ss.solve(problem, y0, TS[[0, 2]], dt=h, brownian=path, method="euler_maruyama").ys[-1]
    w = path.increments(0, 32)
    z = 1 + mu * h + sigma * w
    dm, ds = torch.autograd.grad(end.sum(), (m, s))
    assert torch.allclose(dm, (end.detach() * (h / z).sum(0)).sum(), rtol=1e-10)
    assert torch.allclose(ds, (end.detach() * (w / z).sum(0)).sum(), rtol=1e-10, atol=1e-10)


def test_second_derivatives_are_there():
    y0, a = inputs()
    assert gradgradcheck(lambda y, b: ss.solve(ode(b), y, TS, method="heun", dt=0.3).ys[-1], (y0, a))
    assert gradgradcheck(lambda y, b: ss.solve(sde(b, "diagonal", "ito"), y, TS, dt=0.4, seed=0).ys[-1], (y0, a))


@pytest.mark.parametrize("kind", ["fixed", "adaptive"])
def test_gradients_of_one_trajectory_do_not_know_of_the_others(kind):
    y0, a = inputs()
    how = {"dt": 0.1} if kind == "fixed" else {"rtol": 1e-6}
    ys = ss.solve(ode(a), y0, TS, **how).ys
    (grad,) = torch.autograd.grad(ys[:, 0].sum(), y0)
    assert (grad[1] == 0).all() and (grad[0] != 0).all()


@settings(max_examples=10)
@given(adaptive=st.booleans(), weights=st.lists(st.floats(-2, 2), min_size=21, max_size=21))
def test_gradients_of_21_outputs_add_up(adaptive, weights):
    """The gradient of a sum over outputs is the sum of the gradients of the outputs."""
    y0, a = inputs()
    ts, w = torch.linspace(0, 1, 21, dtype=F64), torch.tensor(weights, dtype=F64)
    how = {"rtol": 1e-5} if adaptive else {"dt": 0.1, "method": "heun"}
    ys = ss.solve(ode(a), y0, ts, **how).ys.sum((1, 2))
    (whole,) = torch.autograd.grad(w @ ys, a, retain_graph=True)
    parts = [torch.autograd.grad(y, a, retain_graph=True, allow_unused=True)[0] for y in ys]
    total = sum(v * p for v, p in zip(weights, parts, strict=True) if p is not None)
    assert torch.allclose(whole, total, rtol=1e-10, atol=1e-10)
    assert parts[0] is None or not parts[0].any()  # the start does not depend on a


# ---- torch.func, through eager fixed steps

KINDS = {
    "ode": lambda y, a: ss.solve(ode(a), y, TS, method="rk4", dt=0.2).ys,
    "diagonal": lambda y, a: ss.solve(sde(a, "diagonal", "ito"), y, TS, dt=0.2, seed=1).ys,
    "scalar": lambda y, a: ss.solve(sde(a, "scalar", "stratonovich"), y, TS, dt=0.2, seed=1).ys,
    "general": lambda y, a: ss.solve(sde(a, "general", "stratonovich"), y, TS, dt=0.2, seed=1).ys,
    "converted": lambda y, a: ss.solve(sde(a, "diagonal", "ito").to_calculus("stratonovich"), y, TS, dt=0.2, seed=1).ys,
}
each = pytest.mark.parametrize("kind", KINDS)


@each
def test_vmap_over_starts_and_parameters_is_a_stack_of_solves(kind):
    y0, a = (x.detach() for x in inputs())
    ys, many = torch.stack([y0, 2 * y0, -y0]), torch.stack([a, a.T, 0.5 * a])
    found = torch.func.vmap(KINDS[kind])(ys, many)
    assert torch.allclose(found, torch.stack([KINDS[kind](y, b) for y, b in zip(ys, many, strict=True)]), atol=1e-13)
    found = torch.func.vmap(functools.partial(KINDS[kind], y0))(many)
    assert torch.allclose(found, torch.stack([KINDS[kind](y0, b) for b in many]), atol=1e-13)


@each
def test_jacrev_jacfwd_jvp_and_autograd_agree(kind):
    y0, a = (x.detach() for x in inputs())
    wanted = torch.autograd.functional.jacobian(KINDS[kind], (y0, a))
    for jac in (torch.func.jacrev, torch.func.jacfwd):
        found = jac(KINDS[kind], argnums=(0, 1))(y0, a)
        assert all(torch.allclose(f, w, atol=1e-12) for f, w in zip(found, wanted, strict=True))
    direction = (torch.ones_like(y0), a.T.contiguous())
    value, change = torch.func.jvp(KINDS[kind], (y0, a), direction)
    assert torch.allclose(value, KINDS[kind](y0, a), atol=1e-13)
    along = sum(torch.tensordot(w, d, 2) for w, d in zip(wanted, direction, strict=True))
    assert torch.allclose(change, along, atol=1e-12)


def solve_inside(y):
    """Every tensor of the request is made under the transform."""
    problem = ss.SDE(lambda t, y: -y, lambda t, y: 0.1 * y)
    ts, ids = torch.tensor([0.0, 0.5, 1.0], dtype=F64), torch.arange(len(y))
    return ss.solve(problem, y, ts, dt=0.1, seed=0, paths=ids).ys


def test_times_made_under_a_transform_are_times():
    y = torch.ones(3, 1, dtype=F64)
    wanted = torch.autograd.functional.jacobian(solve_inside, y)
    for jac in (torch.func.jacrev, torch.func.jacfwd, lambda f: torch.func.vmap(torch.func.jacrev(f))):
        batch = jac(solve_inside)(y) if jac in (torch.func.jacrev, torch.func.jacfwd) else jac(solve_inside)(y[None])[0]
        assert torch.allclose(batch, wanted, atol=1e-13)
    total = lambda x: solve_inside(x)[-1].sum()
    assert torch.func.hessian(lambda x: total(x) ** 2)(y).shape == (3, 1, 3, 1)


def test_status_is_none_inside_a_transform():
    seen = []

    def run(y):
        sol = ss.solve(ss.ODE(lambda t, y: -y), y, TS, dt=0.1)
        seen.append(sol.status)
        return sol.ys

    torch.func.vmap(run)(torch.ones(2, 3, 1, dtype=F64))
    assert seen == [None]
