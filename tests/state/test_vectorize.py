"""vectorize=True: functions of one trajectory give the numbers of the batched ones."""

import pytest
import torch

import sdesolve as ss

TS = torch.linspace(0, 1, 4, dtype=torch.float64)
STEPS = {"own": {}, "shared": {"shared_steps": True}, "fixed": {"dt": 0.1}}
by_steps = pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS.keys())


def start(*shape):
    torch.manual_seed(0)
    return torch.randn(shape, dtype=torch.float64)


@by_steps
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_a_vectorized_ode_is_the_batched_one(batch, steps):
    y0 = start(batch, 2)
    one = ss.ODE(lambda t, y: torch.stack([y[1], -torch.sin(y[0]) * torch.cos(t)]), vectorize=True)
    all_ = ss.ODE(lambda t, y: torch.stack([y[:, 1], -torch.sin(y[:, 0]) * torch.cos(t.expand(batch, 1)[:, 0])], 1))
    assert torch.equal(ss.solve(one, y0, TS, **steps).ys, ss.solve(all_, y0, TS, **steps).ys)


@by_steps
def test_a_vectorized_function_sees_one_trajectory_and_one_time(steps):
    seen = set()

    def f(t, y):
        seen.add((tuple(t.shape), tuple(y.shape)))
        return -y

    ss.solve(ss.ODE(f, vectorize=True), start(3, 2, 4), TS, **steps)
    assert seen == {((), (2, 4))}


DIFFUSIONS = {
    "elementwise": ("diagonal", lambda y: 0.1 * y, lambda y: 0.1 * y),
    "number": ("diagonal", lambda y: 0.3, lambda y: 0.3 * torch.ones_like(y)),
    "one_for_the_trajectory": ("diagonal", lambda y: 0.1 * y.sum(), lambda y: 0.1 * y.sum(1, keepdim=True)),
    "scalar": ("scalar", lambda y: torch.cos(y), lambda y: torch.cos(y)),
    "scalar_one": ("scalar", lambda y: 0.1 * y[0], lambda y: 0.1 * y[:, :1]),
    "matrix": ("general", lambda y: torch.outer(y, y.cos()), lambda y: y[:, :, None] * y.cos()[:, None, :]),
    "row": ("general", lambda y: 0.1 * y, lambda y: 0.1 * y[:, None, :]),
}


@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("case", DIFFUSIONS.values(), ids=DIFFUSIONS.keys())
def test_a_vectorized_sde_is_the_batched_one(case, batch):
    """Batch 2 is as large as the state: what broadcasts along the wrong dimension would go unnoticed."""
    noise, one, all_ = case
    y0 = start(batch, 2)
    options = {"dt": 0.1, "seed": 4}
    single = ss.SDE(lambda t, y: -y * t, lambda t, y: one(y), noise=noise, vectorize=True)
    batched = ss.SDE(lambda t, y: -y * t, lambda t, y: all_(y), noise=noise)
    wanted = ss.solve(batched, y0, TS, **options).ys
    torch.testing.assert_close(ss.solve(single, y0, TS, **options).ys, wanted, rtol=1e-13, atol=1e-14)


@by_steps
def test_a_vectorized_pytree_is_the_batched_one(steps):
    y0 = {"x": start(3, 2), "m": start(3)}
    f = lambda t, y: {"x": -y["x"] * y["m"] * t, "m": -y["m"]}
    f_all = lambda t, y: {"x": -y["x"] * y["m"][:, None] * t.expand(3)[:, None], "m": -y["m"]}
    got, wanted = (ss.solve(ode, y0, TS, **steps).ys for ode in (ss.ODE(f, vectorize=True), ss.ODE(f_all)))
    for key in y0:
        assert torch.equal(got[key], wanted[key])


@pytest.mark.parametrize("noise", ["diagonal", "scalar", "general"])
def test_a_vectorized_pytree_sde_is_the_batched_one(noise):
    y0 = {"x": start(3, 2), "m": start(3)}
    tail = (1,) if noise == "general" else ()
    drift = lambda t, y: {"x": -y["x"], "m": -y["m"]}
    g = lambda t, y: {"x": (y["x"] * y["m"]).reshape(2, *tail), "m": (0.1 * y["m"]).reshape(tail)}
    g_all = lambda t, y: {"x": (y["x"] * y["m"][:, None]).reshape(3, 2, *tail), "m": (0.1 * y["m"]).reshape(3, *tail)}
    options = {"dt": 0.1, "seed": 4}
    got = ss.solve(ss.SDE(drift, g, noise=noise, vectorize=True), y0, TS, **options).ys
    wanted = ss.solve(ss.SDE(drift, g_all, noise=noise), y0, TS, **options).ys
    for key in y0:
        assert torch.equal(got[key], wanted[key])


@by_steps
def test_a_vectorized_state_may_be_one_number_a_trajectory(steps):
    y0 = start(3)
    got = ss.solve(ss.ODE(lambda t, y: -y * t, vectorize=True), y0, TS, **steps).ys
    assert torch.equal(got, ss.solve(ss.ODE(lambda t, y: -y * t), y0, TS, **steps).ys)


def test_a_vectorized_function_is_differentiable():
    y0 = start(3, 2).requires_grad_()
    rate = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    grads = []
    for ode in (
        ss.ODE(lambda t, y: -rate * y * y.norm(), vectorize=True),
        ss.ODE(lambda t, y: -rate * y * y.norm(dim=1, keepdim=True)),
    ):
        for adjoint in ("direct", "backsolve"):
            ys = ss.solve(ode, y0, TS, adjoint=adjoint, rtol=1e-9, atol=1e-11).ys
            grads.append(torch.autograd.grad(ys[-1].sum(), (y0, rate)))
    for got in grads[1:]:
        torch.testing.assert_close(got, grads[0], rtol=1e-6, atol=1e-8)
