"""Hamiltonian systems as a problem: what is accepted, that all ways of stating one agree, and gradients."""

import pytest
import torch
from torch import nn

import sdesolve as ss
from sdesolve.state import state_spec
from sdesolve.system import System

F64 = torch.float64
OWN = ss.methods.made_for("Hamiltonian")
SPAN = torch.tensor([0.0, 1.0], dtype=F64)
ALL = (*OWN, "rk4", "tsit5", "reversible_heun")


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def energy(q):
    return (0.25 * q**4 - torch.cos(q)).reshape(q.shape[0], -1).sum(-1)


def force(q):
    return -(q**3) - torch.sin(q)


def speed(p):
    return p / (1 + p * p).sqrt()


def ends(problem, start, method="leapfrog", dt=0.125, ts=SPAN, **options):
    """(q, p) at the last time."""
    return [z[-1] for z in ss.solve(problem, start, ts, dt=dt, method=method, **options).ys]


def agree(first, second, **tolerance):
    return all(torch.allclose(a, b, **tolerance) for a, b in zip(first, second, strict=True))


# ---- one problem, stated in several ways


@pytest.mark.parametrize("method", ["rk4", "tsit5", "reversible_heun"])
def test_ode_methods_solve_the_ode_that_one_would_write_by_hand(method):
    def f(t, y):
        q, p = y.chunk(2, -1)
        return torch.cat([speed(p), force(q)], -1)

    q, p = normal(2, 3, 2)
    hand = ss.solve(ss.ODE(f), torch.cat([q, p], -1), SPAN, dt=0.1, method=method).ys[-1]
    found = ends(ss.Hamiltonian(energy, velocity=speed), (q, p), method, 0.1)
    assert torch.allclose(torch.cat(found, -1), hand, rtol=1e-12)


@pytest.mark.parametrize("method", ALL)
def test_potential_force_and_subclass_are_the_same(method):
    class Own(ss.Hamiltonian):
        def potential(self, q):
            return energy(q)

        def velocity(self, p):
            return speed(p)

    start = tuple(normal(2, 3, 2))
    found = ends(ss.Hamiltonian(energy, velocity=speed), start, method)
    assert agree(found, ends(ss.Hamiltonian(force=force, velocity=speed), start, method), rtol=1e-12)
    assert agree(found, ends(Own(), start, method))
    plain = ends(ss.Hamiltonian(energy), start, method)
    assert agree(plain, ends(ss.Hamiltonian(energy, velocity=lambda p: 1.0 * p), start, method))
    assert not agree(plain, found)


@pytest.mark.parametrize("method", OWN)
@pytest.mark.parametrize("shape", [(), (4,), (2, 3)], ids=str)
def test_a_trajectory_is_the_same_in_a_batch_and_alone_and_mapped(method, shape):
    q, p = normal(2, 3, *shape)
    together = ends(ss.Hamiltonian(energy, velocity=speed), (q, p), method)
    assert together[0].shape == together[1].shape == q.shape
    for i in range(3):
        one = ss.Hamiltonian(lambda q: energy(q[None])[0], velocity=speed, batched=False)
        alone = ends(one, (q[i], p[i]), method)
        assert agree(alone, [z[i] for z in together], rtol=1e-12, atol=1e-13)
    mapped = ss.Hamiltonian(lambda q: energy(q[None])[0], velocity=speed, vectorize=True)
    assert agree(ends(mapped, (q, p), method), together, rtol=1e-12)


@pytest.mark.parametrize("method", OWN)
def test_trajectories_may_have_times_of_their_own(method):
    problem, start = ss.Hamiltonian(energy, velocity=speed), tuple(normal(2, 2, 3))
    ts = torch.tensor([[0.0, 1.0], [0.0, 0.5]], dtype=F64)
    found = ends(problem, start, method, ts=ts)
    for i in range(2):
        alone = ends(problem, tuple(z[i : i + 1] for z in start), method, ts=ts[i])
        assert agree(alone, [z[i : i + 1] for z in found], rtol=1e-12)


@pytest.mark.parametrize("method", OWN)
def test_single_precision_stays_single_and_close(method):
    start, problem = tuple(normal(2, 3, 2)), ss.Hamiltonian(energy)
    single = ends(problem, tuple(z.float() for z in start), method)
    assert all(z.dtype == torch.float32 for z in single)
    assert agree([z.double() for z in single], ends(problem, start, method), atol=2e-5)


# ---- gradients


@pytest.mark.parametrize("method", OWN)
def test_ways_of_gradients_agree(method):
    start = tuple(normal(2, 5, 2))
    found = {}
    for adjoint in ("direct", "checkpoint", "backsolve"):
        k = torch.tensor(0.7, dtype=F64, requires_grad=True)
        q, _ = ends(ss.Hamiltonian(lambda q, k=k: k * energy(q)), start, method, 0.01, adjoint=adjoint)
        found[adjoint] = float(torch.autograd.grad(q.square().sum(), k)[0])
    assert found["checkpoint"] == pytest.approx(found["direct"], rel=1e-12)
    assert found["backsolve"] == pytest.approx(found["direct"], rel=1e-3)


@pytest.mark.compile
@pytest.mark.traced
def test_a_compiled_solve_and_its_gradients_are_the_eager_ones():
    start, found = tuple(normal(2, 5, 2)), []
    for compile in (False, True):
        k = torch.tensor(0.7, dtype=F64, requires_grad=True)
        problem = ss.Hamiltonian(force=lambda q, k=k: k * force(q), velocity=speed)
        q, p = ends(problem, start, compile=compile)
        found.append((q.detach(), p.detach(), torch.autograd.grad(q.sum() + p.square().sum(), k)[0]))
    assert agree(*found, rtol=1e-12)


def test_modules_are_registered_and_learn():
    class Energy(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)).double()

        def forward(self, q):
            return self.net(q)[:, 0]

    problem = ss.Hamiltonian(Energy(), velocity=nn.Linear(2, 2).double())
    assert {"potential.net.0.weight", "velocity.weight"} <= dict(problem.named_parameters()).keys()
    q, p = ends(problem, tuple(normal(2, 5, 2)))
    (q.sum() + p.sum()).backward()
    # the energy's constant has no effect
    assert all(w.grad is not None for name, w in problem.named_parameters() if name != "potential.net.2.bias")


def test_derivatives_by_torch_func_are_those_of_autograd():
    start = tuple(normal(2, 3, 2))

    def loss(k):
        q, p = ends(ss.Hamiltonian(lambda q: k * energy(q)), start)
        return (q * q + p).sum()

    k = torch.tensor(0.7, dtype=F64)
    wanted = k.clone().requires_grad_()
    right = torch.autograd.grad(loss(wanted), wanted)[0]
    assert torch.allclose(torch.func.grad(loss)(k), right)
    assert torch.allclose(torch.func.jvp(loss, (k,), (torch.ones_like(k),))[1], right)
    assert torch.allclose(torch.func.vmap(loss)(torch.stack([k, 2 * k]))[0], loss(k))


# ---- what is refused

Q = torch.zeros(3, 2)


def refused(start=(Q, Q), **given):
    given = {"potential": lambda q: (q * q).sum(-1), **given}
    ss.solve(ss.Hamiltonian(given.pop("potential"), **given), start, torch.tensor([0.0, 1.0]), dt=0.5)


def writes(q):
    q += 1
    return q


MISTAKES = {
    "both": ({"force": lambda q: -q}, ValueError, "potential, force: got both; .*potential\\(q\\)"),
    "neither": ({"potential": None}, ValueError, "potential, force: got neither"),
    "not a function": ({"potential": 3.0}, TypeError, "potential: got float"),
    "a mass": ({"velocity": 2.0}, TypeError, "velocity: got float; accepted is a function p -> tensor, or None"),
    "one energy for all": ({"potential": lambda q: (q * q).sum()}, ss.errors.FunctionError, r"accepted is \(3,\)"),
    "no tensor": ({"potential": lambda q: 1.0}, ss.errors.FunctionError, "potential: returned float"),
    "force of another shape": (
        {"potential": None, "force": lambda q: q.sum(-1)}, ss.errors.FunctionError,
        r"force: returned shape \(3,\) for q",
    ),
    "force of another dtype": (
        {"potential": None, "force": lambda q: q.double()}, ss.errors.FunctionError, "force: returned dtype",
    ),
    "velocity of another shape": (
        {"velocity": lambda p: p.sum(-1)}, ss.errors.FunctionError, r"velocity: returned shape \(3,\) for p",
    ),
    "writes": ({"potential": None, "force": writes}, ss.errors.FunctionError, "force: wrote into the state"),
    "positions alone": ({"start": Q}, TypeError, r"y0: got a tensor of shape \(3, 2\); accepted is a tuple \(q, p\)"),
    "a list": ({"start": [Q, Q]}, TypeError, "y0: got the structure"),
    "two shapes": ({"start": (Q, torch.zeros(3, 1))}, ValueError, r"y0: got tensors of shapes \(3, 2\) and \(3, 1\)"),
    "complex": ({"start": (Q.to(torch.complex64),) * 2}, TypeError, "complex64 for a Hamiltonian; accepted is a real"),
}  # fmt: skip


@pytest.mark.parametrize(("given", "kind", "text"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_named(given, kind, text):
    with pytest.raises(kind, match=text):
        refused(**given)


def test_what_is_no_problem_is_told_of_hamiltonians():
    with pytest.raises(TypeError, match="Hamiltonian"):
        ss.solve(lambda q: q, (Q, Q), SPAN)


def test_check_problem_takes_hamiltonians():
    ss.testing.check_problem(ss.Hamiltonian(lambda q: (q * q).sum(-1), velocity=speed), (Q, Q))
    with pytest.raises(TypeError, match="y0: got a tensor"):
        ss.testing.check_problem(ss.Hamiltonian(lambda q: (q * q).sum(-1)), Q)
    with pytest.raises(ValueError, match="f: "):
        ss.testing.check_problem(ss.Hamiltonian(force=lambda q: q - q.mean(0)), (Q, Q))


def test_compiled_code_tells_problems_with_other_functions_apart():
    spec = state_spec((Q, Q), True)[0]
    given = ((energy, None), (energy, None), (lambda q: q.sum(-1), None), (energy, speed))
    own = [System(ss.Hamiltonian(f, velocity=v), spec).structure for f, v in given]
    assert own[0] == own[1] and len(set(own)) == 3
