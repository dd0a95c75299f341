"""Solves of Semilinear problems: pytrees, batches, subclasses, splitting, gradients."""

import math

import pytest
import torch

import sdesolve as ss

F64 = torch.float64
TS = torch.tensor([0.0, 0.4, 1.0], dtype=F64)


def tensor(x):
    return torch.tensor(x, dtype=F64)


def moving(kind="sde", **options):
    return ss.Semilinear(
        lambda t: -1 - t, lambda t, y: torch.cos(y + t), (lambda t: 0.3 + t) if kind == "sde" else None, **options
    )


@pytest.mark.parametrize("kind", ["ode", "sde"])
@pytest.mark.parametrize("how", [{"dt": 0.1}, {"rtol": 1e-3, "atol": 1e-3}], ids=["fixed", "adaptive"])
def test_vectorized_functions_and_single_trajectories_give_the_same(kind, how):
    y0 = torch.rand(3, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    noise = {"seed": 3} if kind == "sde" else {}
    whole = ss.solve(moving(kind), y0, TS, **how, **noise).ys
    single = ss.solve(moving(kind, vectorize=True), y0, TS, **how, **noise).ys
    assert torch.allclose(whole, single, rtol=1e-12)
    for i in range(3):
        only = {"paths": [i]} if kind == "sde" else {}
        alone = ss.solve(moving(kind, batched=False), y0[i], TS, **how, **noise, **only).ys
        assert torch.allclose(whole[:, i], alone, rtol=1e-9)


@pytest.mark.parametrize("how", [{"dt": 0.1}, {"rtol": 1e-3, "atol": 1e-3}], ids=["fixed", "adaptive"])
@pytest.mark.parametrize("vectorize", [False, True])
def test_pytrees_have_rates_of_their_own_or_one_for_all(how, vectorize):
    y0 = {"a": torch.rand(3, 2, dtype=F64), "b": torch.rand(3, dtype=F64)}
    flat = torch.cat([y0["a"], y0["b"][:, None]], -1)
    f = lambda t, y: {"a": torch.cos(y["a"]), "b": torch.cos(y["b"])}
    rates = tensor([-1.0, -2.0, -3.0])
    pairs = [
        (-2.0, 0.5, -2.0, 0.5),
        ({"a": rates[:2], "b": -3.0}, {"a": 0.1, "b": tensor(0.2)}, rates, tensor([0.1, 0.1, 0.2])),
        (
            lambda t: {"a": (1 + t) * rates[:2], "b": -3 - 3 * t},
            lambda t: 0.1 + t,
            lambda t: (1 + t) * rates,
            lambda t: 0.1 + t,
        ),
    ]
    for A, g, A_flat, g_flat in pairs:
        trees = ss.solve(ss.Semilinear(A, f, g, vectorize=vectorize), y0, TS, seed=1, **how).ys
        plain = ss.solve(ss.Semilinear(A_flat, lambda t, y: torch.cos(y), g_flat), flat, TS, seed=1, **how).ys
        assert torch.allclose(torch.cat([trees["a"], trees["b"][..., None]], -1), plain, rtol=1e-12)


def test_a_subclass_may_define_the_functions_as_methods():
    class Relaxation(ss.Semilinear):
        def __init__(self):
            super().__init__()
            self.rate = torch.nn.Parameter(tensor([-1.0, -2.0]))

        def A(self, t):
            return self.rate * (1 + t)

        def integral(self, t):
            return self.rate * (t + t * t / 2)

        def f(self, t, y):
            return torch.cos(y)

        def g(self, t):
            return 0.1 + t

    y0 = torch.rand(3, 2, dtype=F64)
    rate = tensor([-1.0, -2.0])
    plain = ss.Semilinear(lambda t: rate * (1 + t), lambda t, y: torch.cos(y), lambda t: 0.1 + t)
    found = ss.solve(Relaxation(), y0, TS, dt=0.1, seed=1)
    assert found.stats.method == "exponential_heun"
    assert torch.allclose(found.ys, ss.solve(plain, y0, TS, dt=0.1, seed=1).ys, rtol=1e-9)
    found.ys.sum().backward()


def test_constants_are_buffers_or_parameters():
    problem = ss.Semilinear(torch.nn.Parameter(tensor(-1.0)), None, tensor([1.0, 2.0]))
    assert [name for name, _ in problem.named_parameters()] == ["A"]
    assert problem.to(torch.float32).g.dtype == torch.float32


@pytest.mark.parametrize("backwards", [False, True], ids=["", "backwards"])
def test_the_law_at_the_end_of_many_steps_is_that_of_the_ornstein_uhlenbeck_process(backwards):
    """Whatever the steps: 20,000 paths, within 5 standard errors of mean and variance."""
    a, g, count = (0.9, 0.7, 20000) if backwards else (-40.0, 3.0, 20000)
    ts = TS.flip(0) if backwards else TS
    span = float(ts[-1] - ts[0])
    end = ss.solve(ss.Semilinear(a, None, g), torch.ones(count, 1, dtype=F64), ts, dt=0.3, seed=1).ys[-1, :, 0]
    mean, variance = math.exp(a * span), abs(g * g * math.expm1(2 * a * span) / (2 * a))
    assert abs(float(end.mean()) - mean) < 5 * (variance / count) ** 0.5
    assert abs(float(end.var()) / variance - 1) < 5 * (2 / count) ** 0.5


# ---- gradients


def tensors():
    return [tensor(x).requires_grad_() for x in ([-1.0, -0.5], 0.4, [0.5, 0.8], -0.3, 0.7)]


def loss(kind, given, parameters, **how):
    """Of an equation with tensors in A, f and g, given as constants or found in closures."""
    a, b, c, slope, weight = parameters
    f = lambda t, y: weight * torch.cos(b * y)
    A, g = (a, c) if given == "constant" else (lambda t: a + slope * t, lambda t: c * (1 + slope * t))
    problem = ss.Semilinear(A, f, g if kind == "sde" else None)
    noise = {"seed": 5} if kind == "sde" else {}
    ys = ss.solve(problem, tensor([[0.3, 1.0], [0.5, -0.2]]), TS, **how, **noise).ys
    return (ys[1:] ** 2).sum()


def gradients(*case, **how):
    parameters = tensors()
    return torch.autograd.grad(loss(*case, parameters, **how), parameters, allow_unused=True)


@pytest.mark.parametrize("given", ["constant", "in time"])
@pytest.mark.parametrize("kind", ["ode", "sde"])
def test_gradients_by_tensors_in_rates_forces_and_noise_are_those_of_finite_differences(kind, given):
    found = gradients(kind, given, dt=0.1)
    for i, gradient in enumerate(found):
        used = not (i == 2 and kind == "ode") and not (i == 3 and given == "constant")
        assert (gradient is not None) == used
        if not used:
            continue
        at, step = tensors(), 1e-6
        direction = torch.ones_like(at[i]).detach()
        ends = []
        for sign in (1, -1):
            moved = [x.detach() + (sign * step * direction if i == j else 0) for j, x in enumerate(at)]
            ends.append(float(loss(kind, given, moved, dt=0.1)))
        assert abs(float(gradient.sum()) - (ends[0] - ends[1]) / (2 * step)) < 1e-6
    again = gradients(kind, given, dt=0.1, adjoint="checkpoint")
    for a, b in zip(found, again, strict=True):
        assert (a is None and b is None) or torch.allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize("given", ["constant", "in time"])
@pytest.mark.parametrize("kind", ["ode", "sde"])
def test_backsolve_gradients_converge_to_those_of_the_solve(kind, given):
    errors = []
    for dt in (0.02, 0.01):
        exact, found = (gradients(kind, given, dt=dt, adjoint=adjoint) for adjoint in ("direct", "backsolve"))
        pairs = [(a, b) for a, b in zip(exact, found, strict=True) if a is not None]
        assert len(pairs) == 5 - (kind == "ode") - (given == "constant")
        errors.append(max(float((a - b).abs().max()) for a, b in pairs))
    # of order 2 for the ODE, 1 along a path
    assert errors[1] < (0.3 if kind == "ode" else 0.6) * errors[0]
    assert errors[1] < (1e-4 if kind == "ode" else 0.05)


def test_adaptive_backsolve_and_reversible_gradients_are_those_of_the_equation():
    how = {"rtol": 1e-6, "atol": 1e-8}
    exact = gradients("ode", "in time", method="tsit5", **how)
    for other in ({"adjoint": "backsolve", "rtol": 1e-5, "atol": 1e-7}, {"adjoint": "reversible", **how}):
        for a, b in zip(exact, gradients("ode", "in time", **other), strict=True):
            assert (a is None and b is None) or torch.allclose(a, b, atol=2e-4)


def test_forward_derivatives_and_vmap_go_through():
    y0 = tensor([[0.3, 1.0]])
    end = lambda a: ss.solve(ss.Semilinear(lambda t: a * (1 + t), None, 0.3), y0, TS, dt=0.1, seed=1).ys[-1]
    direct = torch.func.jacrev(end)(tensor([-1.0, -2.0]))
    forward = torch.func.jvp(end, (tensor([-1.0, -2.0]),), (tensor([1.0, 0.0]),))[1]
    assert torch.allclose(direct[..., 0], forward)
    both = torch.func.vmap(end)(tensor([[-1.0, -2.0], [0.0, 0.5]]))
    assert torch.allclose(both[1], end(tensor([0.0, 0.5])))


def test_tensors_are_read_in_the_precision_of_the_state():
    A, g = tensor([-1.0, -2.0]), tensor(0.3)
    y0, ts = torch.ones(3, 2), TS.float()
    ys = ss.solve(ss.Semilinear(A, None, g), y0, ts, dt=0.1, seed=1).ys
    same = ss.solve(ss.Semilinear(A.float(), None, g.float()), y0, ts, dt=0.1, seed=1).ys
    assert ys.dtype == torch.float32 and torch.equal(ys, same)
    with pytest.raises(ss.errors.FunctionError, match=r"A: has dtype torch\.float64 for a state of"):
        ss.solve(ss.Semilinear(lambda t: A, None, g), y0, ts, dt=0.1, seed=1)


@pytest.mark.parametrize("method", ["exponential_euler", "exponential_heun", "tsit5"])
def test_complex_rates_of_complex_states_are_numbers_or_tensors(method):
    rate = -0.5 + 2j
    y0 = torch.ones(3, 1, dtype=torch.complex128)
    for A in (rate, torch.tensor(rate), torch.tensor(rate, dtype=torch.complex128), lambda t: rate):
        ys = ss.solve(ss.Semilinear(A), y0, TS, method=method, dt=0.1).ys
        exact = torch.exp(torch.tensor(rate, dtype=torch.complex128) * TS)
        assert (ys[:, 0, 0] - exact).abs().max() < (1e-6 if method == "tsit5" else 1e-14)
    with pytest.raises(ss.errors.FunctionError, match=r"A: has dtype torch\.complex64 for a state of dtype"):
        ss.solve(ss.Semilinear(rate), y0.real, TS, dt=0.1)
