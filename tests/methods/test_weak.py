"""The methods of weak order 2: moments and paths, and what they ask for."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

import sdesolve as ss
from sdesolve.brownian.levy import pairs, reversed_increment
from sdesolve.methods import METHODS, Increments, State
from sdesolve.methods.weak_runge_kutta import WeakRungeKutta
from sdesolve.methods.weak_tableaus import DRI1_TABLEAU, RS1_TABLEAU
from sdesolve.state import state_spec
from sdesolve.system import System
from tests.methods.one_graph import assert_steps_are_one_graph
from tests.methods.stochastic_problems import KNOWN
from validation.moments import MomentRecursion, increments, moment_vector
from validation.one_step import KINDS, Polynomials, local_errors
from validation.sections.sde_problems import SHEARS, WEAK

NAMES = ("platen", "dri1", "rs1")
methods = pytest.mark.parametrize("method", [METHODS["sde", name] for name in NAMES], ids=NAMES)

# ---- moments of one step


def step_of(method, problem, t, h, y, increment):
    return method.step(problem.system(y), State(y), Increments(t, t + h, h, *increment)).state.y


def slope_of(errors: np.ndarray) -> float:
    return float(-np.polyfit(np.arange(len(errors)), np.log2(errors), 1)[0])


def local_order(method, problem: Polynomials, independent: bool = False) -> float:
    errors = local_errors(method, problem, [2.0**-k for k in range(9, 13)], independent)
    return slope_of(np.linalg.norm(errors, axis=1))


@pytest.mark.parametrize("kind", KINDS)
@methods
def test_all_moments_of_a_step_are_those_of_the_expansion_up_to_h_cubed(method, kind):
    """E p(X_h) = p + h L p + h^2/2 L^2 p + O(h^3), with the generator L by automatic differentiation."""
    assert abs(local_order(method, Polynomials(kind, method.calculus[0])) - 3) < 0.1


def test_dri1_as_published_has_its_order_with_areas_independent_of_w_alone_and_here_with_those_of_the_path_alone():
    """E A_lk^2 W_k^2 is h^3/4 for the ones, 5/12 h^3 for the others."""
    gamma = tuple(7 / 6 * x for x in DRI1_TABLEAU.gamma_w)
    published = WeakRungeKutta("published", replace(DRI1_TABLEAU, gamma_w=gamma), "ito", "")
    problem = Polynomials("general", "ito")
    assert abs(local_order(published, problem, independent=True) - 3) < 0.1
    assert local_order(published, problem) < 2.3
    assert local_order(METHODS["sde", "dri1"], problem, independent=True) < 2.3


@pytest.mark.parametrize("name", ["platen", "rs1"])
def test_platen_and_rs1_ask_mean_and_variance_alone_of_the_areas(name):
    method = METHODS["sde", name]
    assert abs(local_order(method, Polynomials("general", method.calculus[0]), independent=True) - 3) < 0.1


def full(rows, n):
    return np.array([[*row, *(0.0,) * (n - len(row))] for row in rows])


def test_the_coefficients_of_dri1_fulfil_the_conditions_of_weak_order_two_to_rounding():
    """Roessler 2009, SINUM 47:1713, theorem 5.1; with 3/7 in the place of 1/2 for gamma_w (B2 e)^2."""
    tab = DRI1_TABLEAU
    A0, B0, B1, B2 = (full(rows, 3) for rows in (tab.A0, tab.B0, tab.B1, tab.B2))
    e, c = np.ones(3), np.array(tab.c)
    alpha, w, kk, gamma, root = (np.array(x) for x in (tab.alpha, tab.beta_w, tab.beta_kk, tab.gamma_w, tab.gamma_0))
    wanted = [
        (alpha @ e, 1), (alpha @ A0 @ e, 1 / 2), (alpha @ B0 @ e, 1 / 2), (alpha @ (B0 @ e) ** 2, 1 / 2),
        (alpha @ B0 @ B1 @ e, 0),
        (w @ e, 1), (w @ c, 1 / 2), (w @ B1 @ e, 0), (w @ (B1 @ e) ** 2, 1 / 2), (w @ B1 @ B1 @ e, 0),
        (kk @ e, 0), (kk @ c, 0), (kk @ B1 @ e, 1), (kk @ (B1 @ e) ** 2, 0), (kk @ B1 @ B1 @ e, 0),
        (gamma @ e, 0), (gamma @ B2 @ e, 0), (gamma @ (B2 @ e) ** 2, 3 / 7), (gamma @ B2 @ B1 @ e, 0),
        (root @ e, 0), (root @ B2 @ e, 1), (root @ (B2 @ e) ** 2, 0), (root @ B2 @ B1 @ e, 0),
    ]  # fmt: skip
    assert [k for k, (found, right) in enumerate(wanted) if abs(found - right) > 1e-14] == []


def test_the_coefficients_of_rs1_fulfil_their_conditions_to_rounding():
    """In its own W the method has the classical order 4; then what moves the drift, and others' W."""
    tab = RS1_TABLEAU
    B1, B3, B2 = full(tab.B1, 4), full(tab.B3, 4), full(tab.B2, 3)
    e, c, alpha, w, root = np.ones(4), np.array(tab.c), np.array(tab.alpha), np.array(tab.beta_w), np.array(tab.gamma_0)
    A0, B0, own = full(tab.A0, 2), full(tab.B0, 4), B1 @ e
    wanted = [
        (w @ e, 1), (w @ own, 1 / 2), (w @ own**2, 1 / 3), (w @ B1 @ own, 1 / 6), (w @ own**3, 1 / 4),
        (w @ (own * (B1 @ own)), 1 / 8), (w @ B1 @ own**2, 1 / 12), (w @ B1 @ B1 @ own, 1 / 24),
        (w @ c, 1 / 2), (w @ (c * own), 1 / 4), (w @ B1 @ c, 1 / 4),
        (alpha @ np.ones(2), 1), (alpha @ A0 @ np.ones(2), 1 / 2),
        (alpha @ B0 @ e, 1 / 2), (alpha @ (B0 @ e) ** 2, 1 / 2), (alpha @ B0 @ own, 1 / 4),
        (w @ B3 @ e, 1 / 2), (w @ (B3 @ e) ** 2, 1 / 2), (w @ B3 @ own, 1 / 4),
        (root @ np.ones(3), 0), (root @ B2 @ np.ones(3), 1 / 2), (root @ (B2 @ np.ones(3)) ** 2, 0),
    ]  # fmt: skip
    assert [k for k, (found, right) in enumerate(wanted) if abs(found - right) > 1e-14] == []


# ---- orders


LINEAR = {name: linear for name, (_, linear) in WEAK.items() if name in ("diagonal", "scalar", "general", "additive")}


@pytest.mark.parametrize("linear", LINEAR.values(), ids=LINEAR)
@methods
def test_moments_converge_with_order_two(method, linear):
    recursion = MomentRecursion(linear.sde(method.calculus[0]), method, 2, linear.channels, order=5)
    exact, start = linear.moments(1.0), moment_vector(linear.x0, np.zeros((2, 2)))
    ends = [recursion.run(start, np.linspace(0, 1, 2**k + 1), autonomous=True) for k in range(5, 10)]
    assert abs(slope_of(np.array([np.abs(end - exact).max() for end in ends])) - 2) < 0.1


PLAIN = [p for p in KNOWN if p.name in ("sinh, diagonal", "turning, scalar", "logarithmic")]


@pytest.mark.parametrize("problem", PLAIN, ids=lambda p: p.name)
@methods
def test_strong_order_is_one_without_areas(method, problem):
    assert abs(problem.strong_order(method, method.calculus[0]) - 1) < 0.15


@methods
def test_strong_order_is_one_for_noise_that_does_not_commute(method):
    path = ss.BrownianPath(3, (300, 2), cell=2.0**-9, levy="davie-foster", dtype=torch.float64)
    y0, ts = torch.from_numpy(SHEARS.x0).expand(300, -1), torch.tensor([0.0, 1.0], dtype=torch.float64)
    sde = SHEARS.sde(method.calculus[0])
    end = lambda dt: ss.solve(sde, y0, ts, method=method, dt=dt, brownian=path).ys[-1]
    reference = end(2.0**-9)
    assert (
        abs(slope_of(np.array([float((end(2.0**-k) - reference).norm(dim=1).mean()) for k in range(3, 7)])) - 1) < 0.15
    )


def test_a_step_of_rs1_backwards_returns_to_its_start():
    """W and the areas change their signs with h."""
    problem, method = Polynomials("general", "stratonovich"), METHODS["sde", "rs1"]
    generator = torch.Generator().manual_seed(0)
    nodes = torch.randn(500, 9, generator=generator, dtype=torch.float64)
    y = 0.3 * torch.randn(500, 2, generator=generator, dtype=torch.float64)
    t, gaps = torch.tensor(0.3, dtype=torch.float64), []
    for level in range(8, 13):
        h = torch.tensor(2.0**-level, dtype=torch.float64)
        inc = increments(h, nodes, 3, "davie-foster")
        there = step_of(method, problem, t, h, y, inc)
        back = step_of(method, problem, t + h, -h, there, reversed_increment(inc))
        gaps.append(float((back - y).square().mean().sqrt()))
    assert slope_of(np.array(gaps)) > 1.4


# ---- the form of the noise


def heisenberg(calculus: str) -> ss.SDE:
    """dX_1 = dW_1, dX_2 = dW_2, dX_3 = X_1 dW_2 - X_2 dW_1, the same in both calculi: the third is twice the area."""

    def diffusion(t, y):
        one, zero = torch.ones_like(y[:, 0]), torch.zeros_like(y[:, 0])
        return torch.stack([torch.stack([one, zero, -y[:, 1]], -1), torch.stack([zero, one, y[:, 0]], -1)], -1)

    return ss.SDE(lambda t, y: torch.zeros_like(y), diffusion, noise="general", calculus=calculus)


@methods
def test_solves_of_the_heisenberg_group_follow_the_areas_of_the_path(method):
    path = ss.BrownianPath(5, (50, 2), cell=1 / 16, levy="davie-foster", dtype=torch.float64)
    y0, ts = torch.zeros(50, 3, dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64)
    end = ss.solve(heisenberg(method.calculus[0]), y0, ts, method=method, dt=1 / 16, brownian=path).ys[-1]
    whole = path(0.0, 1.0)
    assert (end[:, :2] - whole.w).abs().max() < 1e-13
    assert (end[:, 2] - 2 * whole.area[:, 0, 1]).abs().max() < 1e-13


def drawn(m: int, h: float, batch: int = 20) -> Increments:
    nodes = torch.randn(batch, 2 * m + pairs(m), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    t, length = torch.tensor(0.3, dtype=torch.float64), torch.tensor(h, dtype=torch.float64)
    return Increments(t, t + length, length, *increments(length, nodes, m, "davie-foster"))


def points(*shape: int) -> Tensor:
    return 0.5 * torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("kind", ["diagonal", "scalar", "additive"])
@methods
def test_noise_of_a_form_takes_the_step_that_its_matrix_takes(method, kind):
    """Whatever the areas are, where no columns are mixed."""
    problem, y = Polynomials(kind, method.calculus[0]), points(20, 2)
    inc = drawn(problem.channels, 0.1)
    matrix = ss.SDE(problem.drift, problem.columns, noise="general", calculus=problem.calculus)
    whole = method.step(System(matrix, state_spec(y, True)[0]), State(y), inc).state.y
    formed = method.step(System(problem.sde(), state_spec(y, True)[0]), State(y), inc._replace(H=None, area=None))
    assert torch.allclose(formed.state.y, whole, rtol=1e-12, atol=1e-14)


class Watched:
    """A function that counts its calls."""

    def __init__(self, function) -> None:
        self.function, self.calls = function, 0

    def __call__(self, t, y):
        self.calls += 1
        return self.function(t, y)


COUNTS = {
    "platen": ("ito", 2, {"diagonal": 3, "scalar": 3, "general": 13, "one": 3, "additive": 2}),
    "dri1": ("ito", 3, {"diagonal": 3, "scalar": 3, "general": 13, "one": 3, "additive": 2}),
    "rs1": ("stratonovich", 2, {"diagonal": 4, "scalar": 4, "general": 16, "one": 4, "additive": 2}),
    "log_ode": ("stratonovich", 2, {"general": 5, "one": 3, "additive": 2}),
    "milstein": ("ito", 1, {"diagonal": 2, "scalar": 2, "general": 4, "one": 2}),
    "derivative_free_milstein": ("stratonovich", 1, {"diagonal": 2, "scalar": 2, "general": 2, "one": 2}),
}


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, (_, _, counts) in COUNTS.items() for kind in counts])
def test_a_solve_makes_the_evaluations_that_it_reports(name, kind):
    calculus, drifts, counts = COUNTS[name]
    columns = {"diagonal": 2, "scalar": 1, "one": 1}.get(kind, 3)
    noise = kind if kind in ("diagonal", "scalar") else "general"
    size = (lambda t, y: 1 + t + 0 * y) if kind == "additive" else (lambda t, y: torch.cos(y))
    f, one = Watched(lambda t, y: -y), size
    g = Watched((lambda t, y: torch.stack([one(t, y)] * columns, -1)) if noise == "general" else one)
    sde = ss.SDE(f, g, noise=noise, additive=kind == "additive", calculus=calculus, commutative=True)
    sol = ss.solve(sde, torch.ones(4, 2), torch.tensor([0.0, 1.0]), dt=0.25, method=name, seed=0)
    assert f.calls == 4 * drifts and sol.stats.drift_evaluations.tolist() == [f.calls] * 4
    # a general diffusion is asked once how many Brownian motions there are
    assert g.calls - (noise == "general") == 4 * counts[kind]
    assert sol.stats.diffusion_evaluations.tolist() == [g.calls] * 4


@pytest.mark.parametrize("kind", KINDS)
@methods
def test_areas_are_drawn_for_general_noise_that_is_not_additive_alone(method, kind, monkeypatch):
    problem, given, step = Polynomials(kind, method.calculus[0]), [], type(method).step

    def noted(self, system, state, inc, **options):
        given.append(inc)
        return step(self, system, state, inc, **options)

    monkeypatch.setattr(type(method), "step", noted)
    y0, ts = points(4, 2), torch.tensor([0.0, 0.1], dtype=torch.float64)
    path = ss.BrownianPath(0, (4, problem.channels), cell=0.05, dtype=torch.float64)
    for source in ({"seed": 0}, {"brownian": path}):
        ss.solve(problem.sde(), y0, ts, dt=0.05, method=method, **source)
    assert len(given) == 4
    for inc in given:
        mixed = kind in ("general", "commutative")
        assert (inc.area is not None) == (inc.H is not None) == mixed
        assert not mixed or inc.area.shape == (4, problem.channels, problem.channels)


@methods
def test_images_with_noise_in_every_pixel_are_solved(method):
    """Areas between 3 x 64 x 64 channels would be 600 MB a trajectory."""
    sde = ss.SDE(lambda t, y: -y, lambda t, y: 0.1 * y, calculus=method.calculus[0])
    sol = ss.solve(sde, torch.ones(2, 3, 64, 64), torch.tensor([0.0, 0.2]), dt=0.1, method=method, seed=0)
    assert sol.ys.shape == (2, 2, 3, 64, 64) and bool(sol.ys.isfinite().all())


def test_adaptive_steps_are_refused():
    sde = ss.SDE(lambda t, y: -y, lambda t, y: 0.1 * y)
    with pytest.raises(ValueError, match="platen"):
        ss.solve(sde, torch.ones(2, 1), torch.tensor([0.0, 1.0]), rtol=1e-2, method="platen", seed=0)


# ---- steps of other kinds


@pytest.mark.parametrize("kind", KINDS)
@methods
def test_trajectories_with_clocks_of_their_own_and_steps_of_length_zero(method, kind):
    """Each trajectory takes the step that it takes alone; one that waits stays, with finite gradients."""
    problem = Polynomials(kind, method.calculus[0])
    y, h = points(3, 2).requires_grad_(), torch.tensor([[0.1], [0.0], [0.02]], dtype=torch.float64)
    t = torch.tensor([[0.1], [0.5], [0.3]], dtype=torch.float64)
    flat = lambda f: lambda t, y: f(t.reshape(-1) if t.ndim else t, y)
    sde = ss.SDE(
        flat(problem.drift), flat(problem.diffusion),
        noise=problem.noise, additive=kind == "additive", calculus=problem.calculus,
    )  # fmt: skip
    nodes = drawn(problem.channels, 1.0, 3)
    w = nodes.w * h.sqrt()
    area = nodes.area * h[..., None] if kind in ("general", "commutative") else None
    together = method.step(System(sde, state_spec(y, True)[0]), State(y), Increments(t, t + h, h, w, None, None, area))
    assert torch.equal(together.state.y[1], y[1])
    (gradient,) = torch.autograd.grad(together.state.y[1].square().sum(), y)
    assert torch.allclose(gradient[1], 2 * y[1]) and bool(gradient.isfinite().all())
    for i in range(3):
        time, length = t[i, 0], h[i, 0]
        inc = Increments(
            time, time + length, length, w[i : i + 1], None, None, None if area is None else area[i : i + 1]
        )
        alone = method.step(System(problem.sde(), state_spec(y[i : i + 1], True)[0]), State(y[i : i + 1]), inc).state.y
        assert torch.allclose(alone[0], together.state.y[i], rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)], ids=str)
@methods
def test_a_state_of_any_shape_takes_the_same_step_with_a_batch_and_without(method, shape):
    y, m = points(4, *shape), 2
    f = lambda t, y: torch.cos(y) - t * y
    g = lambda t, y: torch.stack([torch.sin(y) + t, 1 + 0.5 * y * y], -1)
    inc = drawn(m, 0.1, 4)
    make = lambda batched: ss.SDE(f, g, noise="general", calculus=method.calculus[0], batched=batched)
    together = method.step(System(make(True), state_spec(y, True)[0]), State(y), inc).state.y
    assert together.shape == y.shape
    # every element is an SDE of its own, with the same two motions
    flat = y.reshape(4, -1)
    for k in range(flat.shape[1]):
        one = method.step(System(make(True), state_spec(flat[:, k], True)[0]), State(flat[:, k]), inc).state.y
        assert torch.allclose(one, together.reshape(4, -1)[:, k], rtol=1e-13)
    for i in range(4):
        own = Increments(*inc[:3], inc.w[i : i + 1], None, None, inc.area[i : i + 1])
        alone = method.step(System(make(False), state_spec(y[i], False)[0]), State(y[i]), own).state.y
        assert torch.allclose(alone, together[i], rtol=1e-13)


@methods
def test_a_compiled_loop_takes_the_steps_as_one_graph(method):
    columns = lambda t, y: torch.stack([torch.sin(y), t + y.flip(-1)], -1)
    sde = ss.SDE(lambda t, y: -y, columns, noise="general", calculus=method.calculus[0])
    y = points(4, 2)
    assert_steps_are_one_graph(method, System(sde, state_spec(y, True)[0]), y, drawn(2, 0.1, 4))


@methods
def test_gradients_go_through_a_solve_with_areas(method):
    problem, ts = Polynomials("general", method.calculus[0]), torch.tensor([0.0, 0.2], dtype=torch.float64)
    end = lambda y: ss.solve(problem.sde(), y, ts, dt=0.1, method=method, seed=0).ys[-1]
    y, move = points(3, 2), points(3, 2) * 0.7
    value, slope = torch.func.jvp(end, (y,), (move,))
    there, back = end(y + 1e-6 * move), end(y - 1e-6 * move)
    assert torch.allclose(slope, (there - back) / 2e-6, rtol=1e-6, atol=1e-8)
    (pull,) = torch.func.vjp(end, y)[1](torch.ones_like(value))
    assert torch.allclose((pull * move).sum(), slope.sum(), rtol=1e-10)
