"""Moments of linear SDEs and of the steps of methods on them."""

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

import sdesolve as ss
from sdesolve.methods import METHODS
from validation.linear import LinearSDE
from validation.moments import MomentRecursion, gauss_hermite, moment_vector, monomials, points
from validation.sections.sde_nonlinear import Grid, moment_errors
from validation.sections.sde_problems import COMMUTING, GEOMETRIC, ONE_MOTION, SHEARS, STRONG, WEAK, StrongProblem

EULER = METHODS["sde", "euler_maruyama"]
PROBLEMS = {name: linear for name, (_, linear) in WEAK.items()}


def test_quadratic_polynomials_are_determined_at_the_points() -> None:
    for dims in (1, 2, 3):
        assert np.linalg.matrix_rank(monomials(points(dims))) == (dims + 1) * (dims + 2) // 2


def test_quadrature_gives_the_moments_of_normals() -> None:
    nodes, weights = gauss_hermite(2, 4)
    expectation = lambda f: float(weights @ f(nodes[:, 0], nodes[:, 1]))
    assert expectation(lambda x, y: x**4 * y**2) == pytest.approx(3)
    assert expectation(lambda x, y: x**6) == pytest.approx(15)
    assert expectation(lambda x, y: x * y**3) == pytest.approx(0, abs=1e-12)


def test_moments_of_geometric_brownian_motion() -> None:
    # E X = exp(a T), E X^2 = exp((2 a + b^2) T)
    linear = LinearSDE("diagonal", np.array([[0.3]]), np.zeros(1), np.array([[[0.8]]]), np.zeros((1, 1)), np.ones(1))
    expected = [1, np.exp(0.3 * 2), np.exp((2 * 0.3 + 0.64) * 2)]
    assert linear.moments(2.0) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", PROBLEMS)
def test_moments_solve_the_moment_equations(name: str) -> None:
    p = PROBLEMS[name]

    def slope(t, flat):
        m, P = flat[:2], flat[2:].reshape(2, 2)
        cross = np.outer(p.a, m)
        noise = np.einsum("kij,jn,kln->il", p.B, P, p.B)
        mixed = np.einsum("kij,j,kl->il", p.B, m, p.b)
        constant = np.einsum("ki,kl->il", p.b, p.b)
        return np.concatenate(
            [p.A @ m + p.a, (p.A @ P + P @ p.A.T + cross + cross.T + noise + mixed + mixed.T + constant).ravel()]
        )

    start = np.concatenate([p.x0, np.outer(p.x0, p.x0).ravel()])
    m = solve_ivp(slope, (0, 1), start, rtol=1e-11, atol=1e-12).y[:, -1]
    assert p.moments(1.0) == pytest.approx([1, m[0], m[1], m[2], m[3], m[5]], abs=1e-8)


def test_recursion_gives_the_moments_of_euler_maruyama_on_geometric_brownian_motion() -> None:
    # E X_n = (1 + a h)^n, E X_n^2 = ((1 + a h)^2 + b^2 h)^n
    a, b, h, n = 0.3, 0.8, 0.1, 7
    sde = ss.SDE(lambda t, y: a * y, lambda t, y: b * y)
    v = MomentRecursion(sde, EULER, 1, 1).run(np.ones(3), np.arange(n + 1) * h)
    assert v == pytest.approx([1, (1 + a * h) ** n, ((1 + a * h) ** 2 + b * b * h) ** n], rel=1e-12)


def test_recursion_agrees_with_sampled_steps_when_coefficients_depend_on_time() -> None:
    sde = ss.SDE(lambda t, y: torch.cos(3 * t) * y + t, lambda t, y: (0.5 + t) * y + 0.2)
    ts = np.linspace(0, 1, 9)
    v = MomentRecursion(sde, EULER, 1, 1).run(np.array([1.0, 0.5, 0.25]), ts)
    y0 = torch.full((40_000, 1), 0.5, dtype=torch.float64)
    unit = torch.tensor([0.0, 1.0], dtype=torch.float64)
    y = ss.solve(sde, y0, unit, dt=0.125, seed=0, method="euler_maruyama").ys[-1].numpy()
    for power, exact in ((1, v[1]), (2, v[2])):
        z = (y**power).mean() - exact
        assert abs(z) < 4.5 * (y**power).std() / 200


@pytest.mark.parametrize("linear", [GEOMETRIC, ONE_MOTION, COMMUTING])
def test_solution_along_a_path_has_the_exact_moments(linear: LinearSDE) -> None:
    W = torch.from_numpy(np.random.default_rng(0).standard_normal((100_000, linear.channels)))
    x = linear.solution(1.0, W).numpy()
    values = monomials(x)[:, 1:]
    z = (values.mean(0) - linear.moments(1.0)[1:]) / (values.std(0) / np.sqrt(len(x)))
    assert np.abs(z).max() < 5


def test_commutativity_is_seen() -> None:
    assert GEOMETRIC.commutative and COMMUTING.commutative
    assert not SHEARS.commutative


def test_moment_vector_holds_second_moments_about_zero() -> None:
    v = moment_vector(np.array([1.0, 2.0]), np.array([[1.0, 0.5], [0.5, 2.0]]))
    assert v.tolist() == [1, 1, 2, 2, 2.5, 6]


@pytest.mark.parametrize("name", ["sosri", "milstein", "sra1"])
def test_six_nodes_are_exact_for_the_steps_of_every_method(name: str) -> None:
    method = METHODS["sde", name]
    linear = PROBLEMS["additive diagonal" if method.additive_only else "diagonal"]
    few, more = (MomentRecursion(linear.sde("ito"), method, 2, 2, order).step(0.0, 0.5) for order in (6, 8))
    assert few == pytest.approx(more, rel=1e-11, abs=1e-12)


@pytest.mark.parametrize("name", ["euler_maruyama", "sriw1", "sosri"])
@pytest.mark.parametrize("h", [2.0**-5, 2.0**-8])
def test_moments_of_nonlinear_steps_do_not_depend_on_the_grid(name: str, h: float) -> None:
    method = METHODS["sde", name]
    found = moment_errors(method, "ito", h)
    finer = moment_errors(method, "ito", h, Grid(180, 30, 10, -11.0, 13.0))
    # what is measured, the errors of the first two moments, is above 5e-6
    assert found[:2] == pytest.approx(finer[:2], abs=3e-8)


def test_moments_of_nonlinear_steps_agree_with_sampled_ones() -> None:
    h, paths = 0.125, 50_000
    found = moment_errors(EULER, "ito", h) + np.array([2.0, 6.0, 20.0])
    sde = ss.SDE(lambda t, x: x / 2 + torch.sqrt(x * x + 1), lambda t, x: torch.sqrt(x * x + 1))
    start, ts = torch.zeros(paths, 1, dtype=torch.float64), torch.tensor([0.0, 2.0], dtype=torch.float64)
    z = torch.asinh(ss.solve(sde, start, ts, dt=h, seed=1, method="euler_maruyama").ys[-1]).numpy()
    for k in (1, 2, 3):
        assert abs((z**k).mean() - found[k - 1]) < 4.5 * (z**k).std() / np.sqrt(paths)


@pytest.mark.parametrize("problem", [p for p in STRONG if p.exact and p.finer > 1], ids=lambda p: p.name)
def test_solution_along_a_path_is_the_limit_of_finer_cells(problem: StrongProblem) -> None:
    """Sums of (W, H) over cells of 1/256 and 1/2048 of one path differ by little, and less than those of 1/64 do."""
    fine = ss.BrownianPath(3, (64, problem.channels), cell=2.0**-11, levy="space-time", dtype=torch.float64)

    class Coarse:
        """The same path in cells 2^level times longer."""

        def __init__(self, level: int) -> None:
            self.cell = fine.cell * 2**level

        def increments(self, first: int, count: int):
            parts = [fine(k * self.cell, (k + 1) * self.cell) for k in range(first, first + count)]
            return type(parts[0])(*(None if x[0] is None else torch.stack(x) for x in zip(*parts, strict=True)))

    assert problem.exact is not None
    right = problem.exact(fine)
    gaps = [float((problem.exact(Coarse(level)) - right).abs().mean()) for level in (5, 3)]
    assert gaps[1] < 1e-3
    # orders 3/2 and 2
    assert gaps[1] < gaps[0] / 4
