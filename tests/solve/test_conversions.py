"""to_calculus and time_reversed in every form an SDE may have: against the formula, there and back, and by solving."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils import _pytree as pytree

import sdesolve as ss
from sdesolve.methods import METHODS, Increments, State
from sdesolve.state import state_spec
from sdesolve.system import System

F64 = torch.float64
UNIT = torch.tensor([0.0, 1.0], dtype=F64)
seeds = st.integers(0, 10**6)


def randn(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def rows(t, y):
    """t against a state: 0-d, or one a trajectory of a tensor or of a tree."""
    return t if t.ndim == 0 or t.ndim == y.ndim else t.reshape(-1, *(1,) * (y.ndim - 1))


def drift(t, y):
    return torch.sin(y) + rows(t, y)


NOISES = {
    "diagonal": lambda t, y: 0.4 * torch.sin(y) + 0.3 * (1 + rows(t, y)),
    "scalar": lambda t, y: 0.3 * (torch.cos(y.flip(-1)) + rows(t, y) * y),
    "general": lambda t, y: torch.stack([torch.cos(y), rows(t, y) * y.flip(-1), 0.1 + y * y], -1),
    # what broadcasts to the full shape
    "diagonal, one for all": lambda t, y: 0.5 + 0.1 * rows(t, y)[..., :1] if t.ndim else 0.5 + 0.1 * t,
    "diagonal, a number": lambda t, y: 0.3,
    "scalar, one for all": lambda t, y: torch.sin(y).sum(-1, keepdim=True) if y.ndim else torch.sin(y),
    "general, one row for all": lambda t, y: torch.stack([torch.cos(y[..., :1]), y[..., 1:2]], -1),
}
FORMS = ["plain", "own clocks", "one trajectory", "vectorized", "vectorized, own clocks"]


def make(noise, form, calculus):
    return ss.SDE(
        drift,
        NOISES[noise],
        noise=noise.split(",")[0],
        calculus=calculus,
        batched=form != "one trajectory",
        vectorize=form.startswith("vectorized"),
    )


def correction(noise, t, y):
    """c_i = 1/2 sum_jk g_jk d g_ik / d y_j of one trajectory, with the Jacobian of reverse mode."""
    g, kind = NOISES[noise], noise.split(",")[0]

    def matrix(x):
        found = torch.as_tensor(g(t, x), dtype=x.dtype)
        if kind == "diagonal":
            return torch.diag(found.expand(x.shape))
        return found.expand(x.shape)[:, None] if kind == "scalar" else found.expand(*x.shape, found.shape[-1])

    return 0.5 * torch.einsum("jk,ikj->i", matrix(y), torch.autograd.functional.jacobian(matrix, y))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("calculus", ["ito", "stratonovich"])
def test_every_form_of_sde_gets_the_correction_of_the_formula(form, noise, calculus):
    sde, seed = make(noise, form, calculus), 3
    other = sde.to_calculus("stratonovich" if calculus == "ito" else "ito")
    y = randn(seed, 2) if form == "one trajectory" else randn(seed, 4, 2)
    spec = state_spec(y, sde.batched)[0]
    t = torch.tensor([0.1, 0.4, 0.5, 0.9], dtype=F64) if form.endswith("own clocks") else torch.tensor(0.7, dtype=F64)
    at = spec.expand(t) if t.ndim else t
    found = System(other, spec).drift(at, y) - System(sde, spec).drift(at, y)
    each = [correction(noise, t[i] if t.ndim else t, one) for i, one in enumerate(y.reshape(-1, 2))]
    sign = -1 if calculus == "ito" else 1
    assert torch.allclose(found, sign * torch.stack(each).reshape(y.shape), atol=1e-13)
    assert torch.equal(System(other, spec).diffusion(at, y), System(sde, spec).diffusion(at, y))


@settings(max_examples=8)
@given(seed=seeds, noise=st.sampled_from(["diagonal", "scalar", "general"]), own=st.booleans())
def test_trees_get_the_correction_of_their_flattened_equation(seed, noise, own):
    """A state {x: (2,), v: (1, 2)} as one vector of four; in scalar and general noise its leaves read each other."""
    y0 = {"x": randn(seed, 3, 2), "v": randn(seed + 1, 3, 1, 2)}
    flat = lambda y: torch.cat([y["v"].flatten(1), y["x"]], 1)
    tree = lambda y, *tail: {"x": y[:, 2:], "v": y[:, :2].reshape(len(y), 1, 2, *tail)}
    f = lambda t, y: tree(drift(t, flat(y)))
    g = lambda t, y: tree(found := NOISES[noise](t, flat(y)), *found.shape[2:])
    spec, y = state_spec(y0, True)
    t = torch.tensor([[0.1], [0.5], [0.7]], dtype=F64) if own else torch.tensor(0.4, dtype=F64)
    leaves = ss.SDE(f, g, noise=noise).to_calculus("stratonovich")
    plain = ss.SDE(drift, NOISES[noise], noise=noise).to_calculus("stratonovich")
    wanted = tree(System(plain, state_spec(flat(y0), True)[0]).drift(t, flat(y0)))
    found = spec.unravel(System(leaves, spec).drift(t, y))
    assert all(torch.allclose(a, b, atol=1e-13) for a, b in zip(*map(pytree.tree_leaves, (found, wanted)), strict=True))


@pytest.mark.parametrize("form", FORMS[::2])
@pytest.mark.parametrize("noise", ["diagonal", "scalar", "general"])
def test_there_and_back_is_the_sde_itself(form, noise):
    sde = make(noise, form, "ito")
    there = sde.to_calculus("stratonovich")
    assert there.calculus == "stratonovich" and sde.calculus == "ito"
    assert (there.noise, there.batched, there.vectorize) == (sde.noise, sde.batched, sde.vectorize)
    assert there.to_calculus("ito") is sde and there.to_calculus("stratonovich") is there


def test_back_with_another_diffusion_is_not_the_first_sde():
    there = make("diagonal", "plain", "ito").to_calculus("stratonovich")
    there.diffusion = lambda t, y: 0.5 * y
    y, t = randn(0, 3, 2), torch.tensor(0.3)
    back = there.to_calculus("ito")
    assert torch.allclose(back.drift(t, y), there.drift(t, y) + 0.125 * y, atol=1e-14)


class Learned(ss.SDE):
    """Drift and diffusion are methods that read a parameter."""

    def __init__(self, **facts):
        super().__init__(**facts)
        self.rate = torch.nn.Parameter(torch.tensor(0.5, dtype=F64))

    def drift(self, t, y):
        return -self.rate * y

    def diffusion(self, t, y):
        return self.rate * (torch.ones_like(y) if self.additive else y)


@pytest.mark.parametrize("additive", [False, True])
@pytest.mark.parametrize("convert", ["to_calculus", "time_reversed"])
def test_subclasses_take_their_parameters_along(additive, convert):
    sde = Learned(additive=additive)
    other = sde.to_calculus("stratonovich") if convert == "to_calculus" else ss.time_reversed(sde)
    assert [p is sde.rate for p in other.parameters()] == [True]
    y, t = randn(0, 3, 2), torch.tensor(0.3, dtype=F64)
    rate = 0.5 + (0.125 if convert == "to_calculus" and not additive else 0.0)
    assert torch.allclose(other.drift(t, y), (-rate if convert == "to_calculus" else rate) * y)
    method = "milstein" if other.calculus == "ito" else "heun"
    ss.solve(other, y, UNIT, dt=0.25, seed=0, method=method).ys[-1].sum().backward()
    assert sde.rate.grad is not None and float(sde.rate.grad) != 0
    sde.load_state_dict({"rate": torch.tensor(2.0, dtype=F64)})
    assert float(next(other.parameters()).detach()) == 2.0


def test_an_additive_sde_of_a_subclass_keeps_its_type_and_its_own_name():
    sde = Learned(additive=True)
    other = sde.to_calculus("stratonovich")
    assert type(other) is Learned and (sde.calculus, other.calculus) == ("ito", "stratonovich")
    other.extra = torch.nn.Linear(1, 1)
    assert not hasattr(sde, "extra") and other.to_calculus("ito").calculus == "ito"


ITO = {"diagonal": "sriw1", "scalar": "sriw1", "general": "milstein"}
COMMUTING = {
    "diagonal": (lambda t, y: 0.5 * torch.cos(y), 2),
    "scalar": (lambda t, y: 0.4 * torch.stack([torch.cos(y[..., 1]), torch.sin(y[..., 0])], -1), 1),
    # g_k = phi'(x) B_k x with commuting B_k and y = phi(x) = sinh x
    "general": (
        lambda t, y: (
            torch.cosh(x := torch.asinh(y))[..., None]
            * torch.einsum(
                "kij,...j->...ik", torch.tensor([[[0.4, -0.1], [0.1, 0.4]], [[-0.1, -0.3], [0.3, -0.1]]], dtype=F64), x
            )
        ),
        2,
    ),
}


@pytest.mark.parametrize("noise", COMMUTING)
@pytest.mark.parametrize("calculus", ["ito", "stratonovich"])
def test_solves_in_both_calculi_meet_at_order_one_along_a_path(noise, calculus):
    """Methods of order one or more: the distance falls in proportion to dt. Uncorrected, it stays."""
    (g, m), n = COMMUTING[noise], 100
    y0 = torch.linspace(-1, 1, 2 * n, dtype=F64).reshape(n, 2)
    path = ss.BrownianPath(5, (n, m), cell=2.0**-8, levy="space-time", dtype=F64)
    make = lambda calculus: ss.SDE(
        lambda t, y: torch.cos(y), g, noise=noise, commutative=noise == "general", calculus=calculus
    )
    end = lambda sde, dt, method: ss.solve(sde, y0, UNIT, dt=dt, brownian=path, method=method).ys[-1]

    def gap(dt, convert=True):
        first, second = (make(calculus).to_calculus(c) if convert else make(c) for c in ("ito", "stratonovich"))
        return float((end(first, dt, ITO[noise]) - end(second, dt, "heun")).square().mean().sqrt())

    coarse, fine = gap(2.0**-6), gap(2.0**-8)
    assert 3.3 < coarse / fine < 4.8, (coarse, fine)
    assert gap(2.0**-8, convert=False) > 10 * fine


FIELDS = {
    "additive": (lambda t, y: (0.5 + 0.2 * torch.cos(t)) * torch.ones_like(y), "diagonal", True),
    "diagonal": (lambda t, y: 0.5 * torch.cos(y) + 0.2 * t, "diagonal", False),
    "scalar": (COMMUTING["scalar"][0], "scalar", False),
    "general": (lambda t, y: 0.3 * torch.stack([torch.cos(y), y.flip(-1) + t], -1), "general", False),
}


def steps(sde, y, times, increments, method="heun"):
    """The method's steps along these increments, one row a step."""
    system = System(sde, state_spec(y, sde.batched)[0])
    for (a, b), w in zip(pairwise(times), increments, strict=True):
        y = METHODS["sde", method].step(system, State(y), Increments(a, b, b - a, w)).state.y
    return y


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("source", ["stratonovich", "ito"])
def test_the_reversed_equation_retraces_a_stratonovich_solution(name, source):
    """Along the increments in reverse order and sign, up to the error of the steps, which is of order one at least."""
    g, noise, additive = FIELDS[name]
    sde = ss.SDE(lambda t, y: torch.sin(y) + t, g, noise=noise, additive=additive, calculus=source)
    sde = sde.to_calculus("stratonovich")
    n, y0 = 50, randn(1, 50, 2)
    width = {"diagonal": 2, "scalar": 1, "general": 2}[noise]
    path = ss.BrownianPath(2, (n, width), cell=2.0**-6, dtype=F64)
    back = ss.time_reversed(sde)

    def miss(count):
        times = torch.linspace(0, 1, count + 1, dtype=F64)
        w = torch.stack([path(float(a), float(b)) for a, b in pairwise(times)])
        there = steps(sde, y0, times, w)
        assert torch.allclose(there, ss.solve(sde, y0, UNIT, dt=1 / count, brownian=path, method="heun").ys[-1])
        again = steps(back, there, -times.flip(0), -w.flip(0))
        # the solve backwards in t takes the same steps
        down = ss.solve(sde, there, UNIT.flip(0), dt=1 / count, brownian=path, method="heun").ys[-1]
        assert torch.allclose(again, down, atol=1e-12)
        return float((again - y0).square().mean().sqrt())

    coarse, fine = miss(8), miss(64)
    assert fine < 0.02 and coarse / fine > 7, (coarse, fine)


def test_time_reversed_twice_is_the_same_equation():
    for noise in ("diagonal", "scalar", "general"):
        sde = make(noise, "own clocks", "ito")
        twice = ss.time_reversed(ss.time_reversed(sde))
        y, t = randn(0, 3, 2), torch.tensor([[0.1], [0.5], [0.9]], dtype=F64)
        assert torch.equal(twice.drift(t, y), sde.drift(t, y))
        assert torch.equal(twice.diffusion(t, y), sde.diffusion(t, y))


def test_time_reversed_takes_trees_and_numbers():
    sde = ss.SDE(lambda t, y: {"a": t * y["a"]}, lambda t, y: {"a": 0.3}, additive=True)
    back = ss.time_reversed(sde)
    y, s = {"a": torch.ones(2, 1)}, torch.tensor(-0.5)
    assert torch.equal(back.drift(s, y)["a"], -0.5 * y["a"]) and back.diffusion(s, y)["a"] == 0.3
    assert ss.solve(back, y, torch.tensor([-1.0, 0.0]), dt=0.25, seed=0).ys["a"].shape == (2, 2, 1)
    with pytest.raises(TypeError, match=r"sde: got ODE; accepted is an sdesolve\.SDE"):
        ss.time_reversed(ss.ODE(lambda t, y: y))
