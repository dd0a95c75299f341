"""Langevin dynamics as a problem: what is accepted, that all ways of stating it agree, and gradients."""

import pytest
import torch
from torch import nn

import sdesolve as ss
from sdesolve.state import state_spec
from sdesolve.system import System

F64 = torch.float64
OWN = ss.methods.made_for("Langevin")
SPAN = torch.tensor([0.0, 1.0], dtype=F64)
ALL = (*OWN, "euler_maruyama", "sra1", "heun", "shark")


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def energy(x):
    return (0.25 * x**4 - torch.cos(x)).reshape(x.shape[0], -1).sum(-1)


def force(x):
    return -(x**3) - torch.sin(x)


def ends(langevin, start, method="baoab", dt=0.125, ts=SPAN, **options):
    """(x, v) at the last time."""
    return [z[-1] for z in ss.solve(langevin, start, ts, dt=dt, method=method, seed=4, **options).ys]


def agree(first, second, **tolerance):
    return all(torch.allclose(a, b, **tolerance) for a, b in zip(first, second, strict=True))


# ---- one problem, stated in several ways


@pytest.mark.parametrize("method", ["euler_maruyama", "sra1", "heun", "milstein"])
def test_sde_methods_solve_the_sde_that_one_would_write_by_hand(method):
    gamma, temperature = 0.8, 0.6
    langevin = ss.Langevin(energy, gamma=gamma, temperature=temperature)

    def drift(t, y):
        x, v = y.chunk(2, -1)
        return torch.cat([v, force(x) - gamma * v], -1)

    size = torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=F64) * (2 * gamma * temperature) ** 0.5
    sde = ss.SDE(drift, lambda t, y: size, additive=True, calculus="stratonovich" if method == "heun" else "ito")
    x, v = normal(2, 3, 2)
    hand = ss.solve(sde, torch.cat([x, v], -1), SPAN, dt=0.1, method=method, seed=4).ys[-1]
    assert torch.allclose(torch.cat(ends(langevin, (x, v), method, 0.1), -1), hand, rtol=1e-12)


@pytest.mark.parametrize("method", ALL)
def test_potential_force_and_subclass_are_the_same(method):
    class Own(ss.Langevin):
        def potential(self, x):
            return energy(x)

    start = tuple(normal(2, 3, 2))
    found = ends(ss.Langevin(energy, gamma=0.8), start, method)
    assert agree(found, ends(ss.Langevin(force=force, gamma=0.8), start, method), rtol=1e-12)
    assert agree(found, ends(Own(gamma=0.8), start, method))


@pytest.mark.parametrize("method", OWN)
@pytest.mark.parametrize("shape", [(), (4,), (2, 3)], ids=str)
def test_a_trajectory_is_the_same_in_a_batch_and_alone_and_mapped(method, shape):
    """With shapes (batch,), (batch, 4) and (batch, 2, 3); friction for each element and temperature for each
    trajectory."""
    x, v = normal(2, 3, *shape)
    gamma = normal(*shape, seed=1).abs() + 0.1
    heat = torch.tensor([0.5, 0.0, 2.0], dtype=F64).reshape(3, *(1,) * len(shape))
    together = ends(ss.Langevin(energy, gamma=gamma, temperature=heat), (x, v), method)
    assert together[0].shape == together[1].shape == x.shape
    for i in range(3):
        one = ss.Langevin(lambda x: energy(x[None])[0], gamma=gamma, temperature=float(heat[i].max()), batched=False)
        alone = ends(one, (x[i], v[i]), method, paths=[i])
        assert agree(alone, [z[i] for z in together], rtol=1e-12, atol=1e-13)
    mapped = ss.Langevin(lambda x: energy(x[None])[0], gamma=gamma, temperature=0.7, vectorize=True)
    plain = ss.Langevin(energy, gamma=gamma, temperature=0.7)
    assert agree(ends(mapped, (x, v), method), ends(plain, (x, v), method), rtol=1e-12)


@pytest.mark.parametrize("method", OWN)
def test_trajectories_may_have_times_of_their_own(method):
    langevin, start = ss.Langevin(energy, gamma=0.8), tuple(normal(2, 2, 3))
    ts = torch.tensor([[0.0, 1.0], [0.0, 0.5]], dtype=F64)
    found = ends(langevin, start, method, ts=ts)
    for i in range(2):
        alone = ends(langevin, tuple(z[i : i + 1] for z in start), method, ts=ts[i], paths=[i])
        assert agree(alone, [z[i : i + 1] for z in found], rtol=1e-12)


@pytest.mark.parametrize("method", OWN)
def test_single_precision_stays_single_and_close(method):
    start = tuple(normal(2, 3, 2))
    langevin = ss.Langevin(energy, gamma=torch.tensor([0.05, 3.0], dtype=F64), temperature=0.3)
    single = ends(langevin, tuple(z.float() for z in start), method)
    assert all(z.dtype == torch.float32 for z in single)
    assert agree([z.double() for z in single], ends(langevin, start, method), atol=2e-5)


def test_without_temperature_friction_takes_the_energy():
    """The deterministic equation x'' = -x - gamma x', in closed form."""
    langevin = ss.Langevin(lambda x: 0.5 * (x * x).sum(-1), gamma=0.4, temperature=0.0)
    start = torch.ones(1, 1, dtype=F64), torch.zeros(1, 1, dtype=F64)
    frequency = torch.tensor(1 - 0.2**2, dtype=F64).sqrt()
    decay = torch.exp(torch.tensor(-0.2, dtype=F64))
    exact = decay * (torch.cos(frequency) + 0.2 / frequency * torch.sin(frequency))
    for method, error in (("baoab", 1e-5), ("obabo", 1e-5), ("quicsort", 1e-7)):
        assert abs(ends(langevin, start, method, 0.01)[0].item() - exact.item()) < error


# ---- gradients


@pytest.mark.parametrize("adjoint", ["direct", "checkpoint"])
@pytest.mark.parametrize("method", OWN)
def test_gradients_by_friction_temperature_and_the_potential_are_those_of_finite_differences(method, adjoint):
    start = tuple(normal(2, 3, 2))

    def loss(gamma, heat, k):
        langevin = ss.Langevin(lambda x: (k * x**4 / 4 + x * x).sum(-1), gamma=gamma, temperature=heat)
        return sum(z.square().sum() for z in ends(langevin, start, method, adjoint=adjoint))

    values = [torch.tensor(z, dtype=F64) for z in ([0.05, 1.5], [0.6, 0.2], 1.3)]
    wanted = [z.clone().requires_grad_() for z in values]
    gradients = torch.autograd.grad(loss(*wanted), wanted)
    with torch.no_grad():
        for i, (z, g) in enumerate(zip(values, gradients, strict=True)):
            for j in range(z.numel()):
                step = torch.zeros_like(z).reshape(-1)
                step[j] = 1e-5
                ahead, behind = ([*values[:i], z + s * step.reshape(z.shape), *values[i + 1 :]] for s in (1, -1))
                assert g.reshape(-1)[j].item() == pytest.approx(float(loss(*ahead) - loss(*behind)) / 2e-5, rel=1e-6)


@pytest.mark.parametrize("method", OWN)
def test_gradients_at_temperature_zero_are_finite(method):
    start, gamma = tuple(normal(2, 3, 2)), torch.tensor(0.7, dtype=F64, requires_grad=True)
    heat = torch.zeros(2, dtype=F64, requires_grad=True)
    x, v = ends(ss.Langevin(energy, gamma=gamma, temperature=heat), start, method)
    by_gamma, by_heat = torch.autograd.grad(x.sum() + v.sum(), (gamma, heat))
    assert by_gamma.isfinite() and by_gamma != 0 and (by_heat == 0).all()


@pytest.mark.parametrize("method", OWN)
def test_the_continuous_adjoint_tends_to_the_gradients_of_the_steps(method):
    start, gaps = tuple(normal(2, 20, 1)), []
    for dt in (0.05, 0.0125):
        found = []
        for adjoint in ("direct", "backsolve"):
            gamma = torch.tensor(0.7, dtype=F64, requires_grad=True)
            x, _ = ends(ss.Langevin(energy, gamma=gamma, temperature=0.5), start, method, dt, adjoint=adjoint)
            found.append(float(torch.autograd.grad(x.square().sum(), gamma)[0]))
        gaps.append(abs(found[0] - found[1]))
    assert gaps[1] < 0.5 * gaps[0]


def test_modules_and_parameters_are_registered_and_learn():
    class Energy(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)).double()

        def forward(self, x):
            return self.net(x)[:, 0]

    langevin = ss.Langevin(Energy(), gamma=nn.Parameter(torch.tensor(1.0, dtype=F64)), temperature=torch.tensor(0.5))
    assert {"gamma", "potential.net.0.weight"} <= dict(langevin.named_parameters()).keys()
    assert "temperature" in dict(langevin.named_buffers())
    x, v = ends(langevin, tuple(normal(2, 5, 2)))
    (x.sum() + v.sum()).backward()
    # the energy's constant has no effect
    assert all(p.grad is not None for name, p in langevin.named_parameters() if name != "potential.net.2.bias")


def test_derivatives_by_torch_func_are_those_of_autograd():
    start = tuple(normal(2, 3, 2))

    def loss(gamma):
        x, v = ends(ss.Langevin(energy, gamma=gamma), start)
        return (x * x + v).sum()

    gamma = torch.tensor(0.7, dtype=F64)
    wanted = gamma.clone().requires_grad_()
    right = torch.autograd.grad(loss(wanted), wanted)[0]
    assert torch.allclose(torch.func.grad(loss)(gamma), right)
    assert torch.allclose(torch.func.jvp(loss, (gamma,), (torch.ones_like(gamma),))[1], right)
    assert torch.allclose(torch.func.vmap(loss)(torch.stack([gamma, 2 * gamma]))[0], loss(gamma))


# ---- calculus and direction


def test_both_calculi_are_one_and_reversal_gives_an_sde():
    langevin, start = ss.Langevin(energy, gamma=0.8), tuple(normal(2, 3, 2))
    other = langevin.to_calculus("stratonovich")
    assert isinstance(other, ss.Langevin) and (langevin.calculus, other.calculus) == ("ito", "stratonovich")
    assert agree(ends(other, start), ends(langevin, start))
    back = ss.time_reversed(langevin)
    assert not isinstance(back, ss.Langevin)
    assert all(z.isfinite().all() for z in ends(back, start, "sra1"))


# ---- what is refused

X = torch.zeros(3, 2)


def refused(start=(X, X), **given):
    given = {"potential": lambda x: (x * x).sum(-1), "gamma": 1.0, **given}
    ss.solve(ss.Langevin(given.pop("potential"), **given), start, torch.tensor([0.0, 1.0]), dt=0.5, seed=0)


MISTAKES = {
    "both": ({"force": lambda x: -x}, ValueError, "potential, force: got both"),
    "neither": ({"potential": None}, ValueError, "potential, force: got neither"),
    "not a function": ({"potential": 3.0}, TypeError, "potential: got float"),
    "no friction": ({"gamma": 0.0}, ValueError, "gamma: got 0.0; accepted is a number > 0"),
    "negative friction": ({"gamma": torch.tensor([1.0, -1.0])}, ValueError, r"gamma: got a tensor of shape \(2,\)"),
    "infinite friction": ({"gamma": float("inf")}, ValueError, "gamma: got inf"),
    "friction of another kind": ({"gamma": "1"}, TypeError, "gamma: got '1'"),
    "integers": ({"gamma": torch.tensor(1)}, TypeError, "gamma: got a tensor of torch.int64"),
    "negative temperature": ({"temperature": -1.0}, ValueError, "temperature: got -1.0; accepted is a number >= 0"),
    "NaN": ({"temperature": float("nan")}, ValueError, "temperature: got nan"),
    "friction that does not broadcast": ({"gamma": torch.ones(3)}, ValueError, r"gamma: got shape \(3,\)"),
    "friction of a batch, mapped": ({"gamma": torch.ones(3, 2), "vectorize": True}, ValueError, r"against \(2,\)"),
    "one energy for all": ({"potential": lambda x: (x * x).sum()}, ss.errors.FunctionError, r"accepted is \(3,\)"),
    "an energy an element": ({"potential": lambda x: x * x}, ss.errors.FunctionError, r"potential: returned shape"),
    "no tensor": ({"potential": lambda x: 1.0}, ss.errors.FunctionError, "potential: returned float"),
    "force of another shape": (
        {"potential": None, "force": lambda x: x.sum(-1)}, ss.errors.FunctionError, r"force: returned shape \(3,\)",
    ),
    "positions alone": ({"start": X}, TypeError, r"y0: got a tensor of shape \(3, 2\); accepted is a tuple \(x, v\)"),
    "a list": ({"start": [X, X]}, TypeError, "y0: got the structure"),
    "three": ({"start": (X, X, X)}, TypeError, "y0: got the structure"),
    "two shapes": ({"start": (X, torch.zeros(3, 1))}, ValueError, r"y0: got tensors of shapes \(3, 2\) and \(3, 1\)"),
    "complex": ({"start": (X.to(torch.complex64),) * 2}, TypeError, "complex"),
}  # fmt: skip


@pytest.mark.parametrize(("given", "kind", "text"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_named(given, kind, text):
    with pytest.raises(kind, match=text):
        refused(**given)


def test_check_problem_looks_at_the_state_too():
    langevin = ss.Langevin(lambda x: (x * x).sum(-1), gamma=1.0)
    ss.testing.check_problem(langevin, (X, X))
    with pytest.raises(TypeError, match="y0: got a tensor"):
        ss.testing.check_problem(langevin, X)


def test_compiled_code_tells_problems_with_other_potentials_apart():
    spec = state_spec((X, X), True)[0]
    own = [System(ss.Langevin(f, gamma=1.0), spec).structure for f in (energy, energy, lambda x: x.sum(-1))]
    assert own[0] == own[1] != own[2]
