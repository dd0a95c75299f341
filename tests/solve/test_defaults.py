"""Which method a solve takes when none is given, and what it takes to know whether the drift is stiff."""

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
    ({"noise": "general", "commutative": True}, "derivative_free_milstein", "implicit_milstein"),
    ({"noise": "general"}, "euler_maruyama", "implicit_euler"),
    ({"calculus": "stratonovich"}, "slow_rk", "implicit_milstein"),
    ({"noise": "general", "calculus": "stratonovich"}, "heun", "heun"),
]


@pytest.mark.parametrize(("kind", "explicit", "implicit"), CASES, ids=lambda case: str(case).replace("'", ""))
def test_steps_that_are_too_long_for_an_explicit_method_make_the_default_implicit(kind, explicit, implicit):
    assert taken(stiff(**kind), dt=1e-3).stats.method == explicit
    sol = taken(stiff(**kind), dt=1e-2, on_failure="return")
    assert sol.stats.method == implicit
    if implicit != "heun":
        # the first component follows cos t, from which it starts at a distance of 0, and the second hardly moves
        assert (sol.ys[-1] - 1).abs().max() < 0.1


def test_a_method_that_is_named_is_taken_however_stiff_the_drift():
    assert taken(stiff(additive=True), dt=1e-2, method="sosra", on_failure="return").stats.method == "sosra"


def test_adaptive_steps_find_their_length_by_themselves():
    assert taken(stiff(additive=True), rtol=1e-2, atol=1e-2).stats.method == "sosra"


@pytest.mark.parametrize("dt", [1e-3, 1e-2])
def test_the_look_at_the_drift_is_counted(dt):
    problem, calls = stiff(additive=True), []
    drift = problem.drift
    problem.drift = lambda t, y: calls.append(t) or drift(t, y)
    sol = taken(problem, dt=dt)
    assert len(calls) == int(sol.stats.drift_evaluations[0])
    explicit = taken(stiff(additive=True), dt=dt, method=sol.stats.method)
    assert len(calls) == int(explicit.stats.drift_evaluations[0]) + EVALUATIONS


def test_langevin_and_semilinear_problems_have_methods_of_their_own():
    x = torch.ones(3, 2, dtype=F64)
    langevin = ss.Langevin(force=lambda x: -1e4 * x, gamma=1.0)
    assert taken(langevin, (x, x), dt=1e-3).stats.method == "baoab"
    assert taken(ss.Semilinear(-1e6, None, 0.1), dt=1e-2).stats.method == "exponential_heun"


def test_inside_vmap_no_value_is_looked_at():
    def end(y0):
        return taken(stiff(additive=True), y0[None], dt=1e-3).ys[-1, 0]

    y0 = torch.rand(4, 2, dtype=F64)
    assert torch.equal(torch.func.vmap(end)(y0)[2], end(y0[2]))


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
