"""Which method a solve takes when none is given, and when it warns that steps are too long for it."""

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sdesolve as ss
from sdesolve.state import state_spec
from sdesolve.stiffness import EVALUATIONS, decay_rate
from sdesolve.system import System

F64 = torch.float64
SPAN = torch.tensor([0.0, 0.02], dtype=F64)


def stiff(**kind) -> ss.SDE:
    """A rate of 1000 in the first component, and of 1 in the second."""
    rates = torch.tensor([1000.0, 1.0], dtype=F64)
    g = (lambda t, y: torch.full_like(y, 0.1)) if kind.get("additive") else (lambda t, y: 0.1 * y)
    if kind.get("noise") == "general":
        columns = torch.tensor([1.0, 0.5], dtype=F64)
        g = lambda t, y: 0.1 * (torch.ones_like(y) if kind.get("additive") else y)[..., None] * columns
    return ss.SDE(lambda t, y: -rates * (y - torch.cos(t)), g, **kind)


def taken(problem, y0=None, **options) -> ss.Solution:
    return ss.solve(problem, torch.ones(3, 2, dtype=F64) if y0 is None else y0, SPAN, seed=0, **options)


CASES = [
    ({"additive": True}, "sosra", "esdirk_sra"),
    ({"additive": True, "noise": "general", "calculus": "stratonovich"}, "sosra", "esdirk_sra"),
    ({}, "sosri", "implicit_milstein"),
    ({"noise": "scalar"}, "sosri", "implicit_milstein"),
    ({"noise": "general", "commutative": True}, "milstein", "implicit_milstein"),
    ({"noise": "general"}, "euler_maruyama", "implicit_euler"),
    ({"calculus": "stratonovich"}, "slow_rk", "implicit_milstein"),
    ({"noise": "general", "calculus": "stratonovich"}, "heun", "heun"),
]


@pytest.mark.parametrize(("kind", "explicit", "implicit"), CASES, ids=lambda case: str(case).replace("'", ""))
def test_the_default_is_implicit_where_the_sde_says_that_it_is_stiff(kind, explicit, implicit):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert taken(stiff(**kind), dt=1e-3).stats.method == explicit
    if implicit == "heun":
        with pytest.warns(UserWarning, match="name a method"):
            assert taken(stiff(stiff=True, **kind), dt=1e-2, on_failure="return").stats.method == "heun"
        return
    sol = taken(stiff(stiff=True, **kind), dt=1e-2)
    assert sol.stats.method == implicit
    # the first component follows cos t, from which it starts at a distance of 0, and the second hardly moves
    assert (sol.ys[-1] - 1).abs().max() < 0.1
    with pytest.warns(UserWarning, match="say stiff=True in the SDE"):
        assert taken(stiff(**kind), dt=1e-2, on_failure="return").stats.method == explicit


def test_what_an_sde_says_of_its_stiffness_stays_with_it_in_the_other_calculus_and_not_backwards_in_time():
    sde = stiff(stiff=True)
    assert sde.to_calculus("stratonovich").stiff and sde.to_calculus("stratonovich").to_calculus("ito").stiff
    assert not ss.time_reversed(sde).stiff and stiff(stiff=True, additive=True).to_calculus("stratonovich").stiff


def test_the_default_is_the_same_for_every_batch_and_under_transforms():
    sde = ss.SDE(lambda t, y: -(y**3), lambda t, y: 0.1 * y)
    y0 = torch.linspace(0.5, 8.0, 16, dtype=F64)[:, None]
    ts = torch.tensor([0.0, 0.1], dtype=F64)
    end = lambda y0, **options: ss.solve(sde, y0, ts, dt=0.05, seed=0, **options).ys[-1]
    with pytest.warns(UserWarning, match="dt: steps of 0.05"):
        whole = end(y0)
    assert torch.equal(end(y0[2:3], paths=[2])[0], whole[2])
    assert torch.allclose(torch.func.vmap(end)(y0[None])[0], whole, rtol=1e-12)


def test_a_method_that_is_named_and_adaptive_steps_end_the_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert taken(stiff(additive=True), dt=1e-2, method="sosra", on_failure="return").stats.method == "sosra"
        assert taken(stiff(additive=True), rtol=1e-2, atol=1e-2).stats.method == "sosra"
        assert taken(stiff(additive=True, stiff=True), rtol=1e-2, atol=1e-2).stats.method == "esdirk_sra"


def test_steps_are_those_that_are_taken_and_backwards_it_is_growth_that_is_stiff():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        taken(ss.SDE(lambda t, y: -y, lambda t, y: 0.1 * y), dt=10.0)
        grows = ss.SDE(lambda t, y: -100 * y, lambda t, y: 0.1 * y, calculus="stratonovich")
        ss.solve(grows, torch.ones(1, 1, dtype=F64), torch.tensor([1.0, 0.9], dtype=F64), dt=0.05, seed=0)
    decays = ss.SDE(lambda t, y: 100 * y, lambda t, y: 0.1 * y, calculus="stratonovich")
    with pytest.warns(UserWarning, match="a rate of 100"):
        ss.solve(decays, torch.ones(1, 1, dtype=F64), torch.tensor([1.0, 0.9], dtype=F64), dt=0.05, seed=0)


@pytest.mark.parametrize("kind", [{}, {"stiff": True}], ids=["explicit", "implicit"])
def test_the_look_at_the_drift_is_counted(kind):
    problem, calls = stiff(additive=True, **kind), []
    drift = problem.drift
    problem.drift = lambda t, y: calls.append(t) or drift(t, y)
    sol = taken(problem, dt=1e-3)
    assert len(calls) == int(sol.stats.drift_evaluations[0])
    named = taken(stiff(additive=True), dt=1e-3, method=sol.stats.method)
    assert len(calls) == int(named.stats.drift_evaluations[0]) + (0 if kind else EVALUATIONS)


def test_backsolve_refuses_implicit_methods():
    with pytest.raises(ValueError, match=r"adjoint: got 'backsolve' with the implicit method 'implicit_milstein'"):
        taken(stiff(stiff=True), dt=1e-2, adjoint="backsolve")


def test_langevin_and_semilinear_problems_have_methods_of_their_own():
    x = torch.ones(3, 2, dtype=F64)
    langevin = ss.Langevin(force=lambda x: -1e4 * x, gamma=1.0)
    assert taken(langevin, (x, x), dt=1e-3).stats.method == "baoab"
    assert taken(ss.Semilinear(-1e6, None, 0.1), dt=1e-2).stats.method == "exponential_heun"


def rate(f, y) -> float:
    return decay_rate(System(ss.ODE(f), state_spec(y, True)[0]), torch.tensor(0.0, dtype=y.dtype), y)


@settings(max_examples=50)
@given(
    n=st.integers(1, 12),
    size=st.floats(1e1, 1e6),
    seed=st.integers(0, 2**20),
    dtype=st.sampled_from([torch.float32, F64]),
)
def test_the_rate_is_that_of_an_eigenvalue_that_is_much_larger_than_the_others(n, size, seed, dtype):
    generator = torch.Generator().manual_seed(seed)
    Q = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=F64))[0]
    values = -torch.rand(n, generator=generator, dtype=F64) * size * 1e-3
    values[0] = -size
    J = (Q @ torch.diag(values) @ Q.T).to(dtype)
    y = torch.randn(3, n, generator=generator, dtype=F64).to(dtype)
    # the direction from which the iteration starts may lie almost across that of the eigenvalue
    found = rate(lambda t, y: y @ J.T, y)
    assert found <= 1.01 * size
    start = torch.cos(2.4 * torch.arange(n, dtype=F64) ** 2) * 0.5 + 1
    start = torch.where(torch.arange(n) % 2 == 0, start, -start) / start.norm()
    if (start @ Q[:, 0]).abs() > 0.05:
        assert found >= 0.95 * size


def test_growth_and_what_is_not_finite_are_not_stiff():
    y = torch.ones(3, 2, dtype=F64)
    assert rate(lambda t, y: 1e6 * y, y) == 0
    assert rate(lambda t, y: -1 / (y - 1), y) == 0
    assert rate(lambda t, y: torch.zeros_like(y), y) == 0
