"""One step of the SDE methods: its order, its error estimate, what it evaluates and where."""

import numpy as np
import pytest
import torch

import sdesolve as ss
from sdesolve.methods import METHODS, Increments, State, choose, names
from sdesolve.methods.stochastic_runge_kutta import StochasticRungeKutta
from sdesolve.state import state_spec
from sdesolve.system import System
from tests.methods.one_graph import assert_steps_are_one_graph
from tests.methods.stochastic_problems import KNOWN, tensor
from validation.linear import LinearSDE
from validation.moments import MomentRecursion, gauss_hermite, moment_vector
from validation.one_step import Polynomials, local_errors
from validation.sections.sde_problems import structure_of

ITO = ("milstein", "derivative_free_milstein", "sra1", "sra3", "sosra", "sriw1", "sriw2", "sosri")
STRATONOVICH = ("euler_heun", "midpoint", "general_shark", "slow_rk", "spark")
SHIFTED = ("sea", "shark")
NAMES = (*ITO, *STRATONOVICH, *SHIFTED, "tamed_euler")
ADAPTIVE = ("heun", *(name for name in NAMES if METHODS["sde", name].error_order is not None))
MILSTEIN = METHODS["sde", "milstein"]


FINER = {
    ("sra3", "logarithmic"): 3,
    ("sriw2", "logarithmic"): 3,
    ("slow_rk", "geometric"): 3,
    ("tamed_euler", "geometric"): 2,
}
"""Where longer steps show terms of higher order first: how many times the steps are halved."""


def treats(method, structure: str, noise: str) -> bool:
    return noise in method.noise and (structure == "additive" or not method.additive_only)


def calculi(method, structure: str) -> tuple[str, ...]:
    return method.calculus[:1] if structure == "additive" else method.calculus


# ---- orders


def expected_order(method, problem) -> float:
    """Where the drift is linear and the noise additive, what strong order 1.5 leaves has mean 0 and order 2."""
    order = method.strong_order_for(problem.structure)
    return 2.0 if problem.name.startswith("Ornstein") and order == 1.5 else order


@pytest.mark.parametrize(
    ("name", "calculus", "problem"),
    [
        pytest.param(name, calculus, problem, id=f"{name}-{calculus}-{problem.name}")
        for name in NAMES
        for problem in KNOWN
        if treats(METHODS["sde", name], problem.structure, problem.noise)
        for calculus in calculi(METHODS["sde", name], problem.structure)
    ],
)
def test_strong_error_falls_with_the_order_of_the_method(name, calculus, problem):
    method = METHODS["sde", name]
    slope = problem.strong_order(method, calculus, FINER.get((name, problem.name), 0))
    assert abs(slope - expected_order(method, problem)) < 0.15


A, a, x0 = np.array([[-0.8, 0.4], [-0.3, -0.5]]), np.array([0.5, 0.2]), np.array([1.0, -0.5])
WEAK = {
    "diagonal": LinearSDE(
        "diagonal", A, a, np.array([np.diag([0.8, 0.0]), np.diag([0.0, 0.6])]), np.diag([0.3, -0.2]), x0
    ),
    "scalar": LinearSDE("scalar", A, a, np.array([[[0.6, -0.5], [0.5, 0.4]]]), np.array([[0.2, -0.1]]), x0),
    "commuting": LinearSDE(
        "general", A, a, np.array([[[0.6, -0.1], [0.1, 0.6]], [[-0.1, -0.5], [0.5, -0.1]]]), np.zeros((2, 2)), x0
    ),
    "additive": LinearSDE("general", A, a, np.zeros((2, 2, 2)), np.array([[0.5, 0.2], [-0.1, 0.4]]), x0),
}


LINEAR = {("sriw1", "diagonal"), ("sriw1", "scalar"), ("midpoint", "additive")}
"""Methods that have weak order 2 where drift and diffusion are linear: what they lack holds second derivatives."""


@pytest.mark.parametrize(
    ("name", "calculus", "problem"),
    [
        (name, calculus, problem)
        for name in NAMES
        for problem, linear in WEAK.items()
        if treats(METHODS["sde", name], "additive" if linear.additive else "", linear.noise)
        for calculus in calculi(METHODS["sde", name], "additive" if linear.additive else "")
    ],
)
def test_moments_converge_with_the_weak_order(name, calculus, problem):
    method, linear = METHODS["sde", name], WEAK[problem]
    recursion = MomentRecursion(linear.sde(calculus), method, 2, linear.channels, order=8 if method.levy else 4)
    exact, start = linear.moments(1.0), moment_vector(linear.x0, np.zeros((2, 2)))
    ends = [recursion.run(start, np.linspace(0, 1, 2**k + 1), autonomous=True) for k in range(5, 10)]
    errors = np.log2([np.abs(end - exact).max() for end in ends])
    slope = -np.polyfit(range(5), errors, 1)[0]
    order = 2.0 if (name, problem) in LINEAR else method.weak_order_for(structure_of(linear))
    assert abs(slope - order) < 0.15, errors


@pytest.mark.parametrize(("name", "order"), [("midpoint", 1.0), ("heun", 2.0), ("general_shark", 2.0)])
def test_weak_order_for_additive_noise_and_a_nonlinear_drift_by_the_moments_of_one_step(name, order):
    method = METHODS["sde", name]
    assert method.weak_order_for("additive") == order
    errors = local_errors(method, Polynomials("additive", "stratonovich"), [2.0**-k for k in range(8, 12)])
    slope = -np.polyfit(range(4), np.log2(np.linalg.norm(errors, axis=1)), 1)[0]
    assert abs(slope - (order + 1)) < 0.1


@pytest.mark.parametrize(("name", "order"), [("milstein", 1.0), ("sriw1", 1.5), ("sosri", 1.5)])
def test_weak_order_for_a_nonlinear_diffusion_by_the_second_moment_of_one_step(name, order):
    """X = sinh(z + m t + s W); E X^2 after one step, by quadrature in w and H, is off by O(h^(order + 1))."""
    method, s, m, z = METHODS["sde", name], 0.8, 0.3, 0.4
    assert method.weak_order == order
    width = lambda y: torch.sqrt(1 + y * y)
    sde = ss.SDE(lambda t, y: m * width(y) + s * s / 2 * y, lambda t, y: s * width(y))
    nodes, weights = (torch.from_numpy(x) for x in gauss_hermite(2, 24))
    y = torch.full((len(nodes), 1), np.sinh(z), dtype=torch.float64)
    errors = []
    for k in range(9, 14):
        h = torch.tensor(2.0**-k, dtype=torch.float64)
        inc = Increments(0 * h, h, h, nodes[:, :1] * h.sqrt(), nodes[:, 1:] * (h / 12).sqrt())
        end = method.step(system_of(sde, y), State(y), inc).state.y[:, 0]
        exact = (torch.exp(2 * s * s * h) * torch.cosh(2 * (z + m * h)) - 1) / 2
        errors.append(float((weights @ end**2 - exact).abs().log2()))
    assert abs(-np.polyfit(range(5), errors, 1)[0] - (order + 1)) < 0.1, errors


# ---- the formula of a step


def system_of(sde: ss.SDE, y: torch.Tensor) -> System:
    return System(sde, state_spec(y, True)[0])


def drift(t, y):
    return torch.stack([torch.cos(y[:, 1]) - t * y[:, 0], y[:, 0] * y[:, 1] - torch.sin(3 * t)], -1)


def diffusion(noise: str, additive: bool):
    """With its derivative: component i of a diagonal g reads y_i alone, and the columns of a general one commute."""
    if additive:
        row = lambda t, y: torch.stack([1 + t, torch.cos(t) * torch.ones_like(t)], -1).expand(y.shape)
        if noise != "general":
            return row
        return lambda t, y: torch.stack([row(t, y), row(t * t, y).flip(-1), row(2 * t, y)], -1)
    if noise == "general":
        return lambda t, y: torch.stack([(1 + t) * y, 0.5 * y, (0.3 - t) * y], -1)
    return lambda t, y: torch.sqrt(1 + y * y) * (1 + t) if noise == "diagonal" else torch.sin(y.flip(-1)) * (1 + t)


def slope_along(noise: str, t: float, y: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """sum_jk (dg_k/dy g_j) w_j w_k and sum_k dg_k/dy g_k of `diffusion`, by hand."""
    if noise == "general":
        c = tensor(1 + t, 0.5, 0.3 - t)
        return (w @ c)[:, None] ** 2 * y, (c * c).sum() * y
    if noise == "diagonal":
        return (1 + t) ** 2 * y * w * w, (1 + t) ** 2 * y
    change = (1 + t) ** 2 * torch.cos(y.flip(-1)) * torch.sin(y)
    return change * w * w, change


def differences(system, noise: str, inc, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The same by differences of g, as Kloeden & Platen write them in (11.1.3) and (11.1.10)."""
    g, h, w = system.diffusion_in_full(inc.t0, y), inc.h, inc.w
    if system.calculus == "stratonovich":
        along = lambda g: g * w if noise != "general" else torch.einsum("bik,bk->bi", g, w)
        return along(system.diffusion_in_full(inc.t0, y + along(g)) - g), torch.zeros(())
    support = lambda move: system.diffusion_in_full(inc.t0, y + h * system.drift(inc.t0, y) + move)
    if noise != "general":
        slope = (support(h.sqrt() * g) - g) / h.sqrt()
        return slope * w * w, slope
    slopes = torch.stack([(support(h.sqrt() * g[..., j]) - g) / h.sqrt() for j in range(3)], 1)
    return torch.einsum("bjik,bj,bk->bi", slopes, w, w), torch.einsum("bkik->bi", slopes)


def problem_of(noise: str, additive: bool = False, calculus: str = "ito") -> ss.SDE:
    return ss.SDE(
        drift, diffusion(noise, additive), noise=noise, additive=additive, calculus=calculus, commutative=True
    )


def draw(noise: str, batch: int, t: float, h: float, seed: int = 0) -> Increments:
    generator = torch.Generator().manual_seed(seed)
    wide = {"diagonal": 2, "scalar": 1, "general": 3}[noise]
    normal = torch.randn(2, batch, wide, generator=generator, dtype=torch.float64) * h**0.5
    t0, t1, length = (torch.tensor(x, dtype=torch.float64) for x in (t, t + h, h))
    return Increments(t0, t1, length, normal[0], normal[1] / 12**0.5)


def start(batch: int) -> torch.Tensor:
    return torch.randn(batch, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def written_out(method, system, y, inc):
    """y_1 and the lower solution of a stochastic Runge-Kutta method, by its formula with no term left out."""
    tab, h, w = method.tableau, inc.h, inc.w
    at = lambda row, j: row[j] if row is not None and j < len(row) else 0.0
    I10 = w / 2 + inc.H
    integrals = (w, (w * w - h) / 2 / h.sqrt(), I10, (w**3 - 3 * h * w) / 6 / h)
    F, G = [], []
    for i in range(tab.stages):
        z0 = y + sum(at(tab.A0[i], j) * h * F[j] + at(tab.B0[i], j) * system.noise_term(G[j], I10) for j in range(i))
        z1 = y + 0
        if tab.B1 is not None:
            z1 = y + sum(at(tab.A1[i], j) * h * F[j] + at(tab.B1[i], j) * h.sqrt() * G[j] for j in range(i))
        F.append(system.drift(inc.t0 + tab.c0[i] * h, z0))
        G.append(system.diffusion(inc.t0 + tab.c1[i] * h, z1))
    y1, lower = y, y + h * F[0]
    for i in range(tab.stages):
        weights = [at(beta, i) for beta in (tab.beta_w, tab.beta_11, tab.beta_10, tab.beta_111)]
        noise = sum(weight * x for weight, x in zip(weights, integrals, strict=True))
        y1 = y1 + h * tab.alpha[i] * F[i] + system.noise_term(G[i], noise)
        noise = at(tab.lower_w, i) * integrals[0] + at(tab.lower_11, i) * integrals[1]
        lower = lower + system.noise_term(G[i], noise)
    return y1, lower


def in_words(name, system, y, inc):
    """y_1 and the lower solution of a Stratonovich Runge-Kutta method, as its source writes them."""
    h, W, H, t = inc.h, inc.w, inc.H, inc.t0
    f, g = system.drift, system.diffusion
    dot = system.noise_term
    euler = y + h * f(t, y) + dot(g(t, y), W)
    if name == "midpoint":
        z = y + h / 2 * f(t, y) + dot(g(t, y), W) / 2
        return y + h * f(t + h / 2, z) + dot(g(t + h / 2, z), W), euler
    if name in ("shark", "general_shark"):
        shifted = y + dot(g(t, y), H)
        f0, g0 = f(t, shifted), g(t, shifted)
        z = y + 5 / 6 * (h * f0 + dot(g0, W)) + dot(g(t, y), H)
        drift = h * (2 / 5 * f0 + 3 / 5 * f(t + 5 / 6 * h, z))
        if name == "shark":
            return y + drift + dot(g(t, y), W / 2 + H) + dot(g(t + h, y), W / 2 - H), y + h * f0 + dot(g0, W)
        g1 = g(t + 5 / 6 * h, z)
        y1 = y + drift + dot(2 / 5 * g0 + 3 / 5 * g1, W) + 6 / 5 * dot(g0 - g1, H)
        return y1, y + h * f0 + dot(g0, W)
    if name == "slow_rk":
        half = y + h / 2 * f(t, y)
        k1 = g(t + h / 2, half)
        k2 = g(t + h / 2, half + dot(k1, W) / 2)
        k3 = g(t + h / 2, half + dot(k2, W) / 2)
        k4 = g(t + h / 2, half + dot(k3, W))
        late = f(t + 3 / 4 * h, y + 3 / 4 * h * f(t, y) + 3 / 4 * dot(k3, W) + 3 / 2 * dot(k3, H))
        end = g(t + h, y + h * f(t, y) + dot(k2, W) / 2)
        y1 = y + h * (f(t, y) + 2 * late) / 3 + dot(k1 + 2 * k2 + 2 * k3 + k4, W) / 6 + 2 * dot(k3 - end, H)
        return y1, y + h * f(t, y) + dot(k2, W)
    assert name == "spark"
    middle = y + h / 2 * f(t, y) + dot(g(t, y), W / 2 + 3**0.5 * H)
    f1, g1 = f(t + h / 2, middle), g(t + h / 2, middle)
    last = y + h * f1 + dot(g1, W)
    f2, g2, a, b = f(t + h, last), g(t + h, last), (3 - 3**0.5) / 6, 3**-0.5
    y1 = y + h * (a * f(t, y) + b * f1 + a * f2) + dot(a * g(t, y) + b * g1 + a * g2, W) + dot(g(t, y) - g2, H)
    return y1, y + h * (f(t, y) + f2) / 2 + dot(g(t, y) + g2, W) / 2


KINDS = [
    pytest.param(name, noise, additive, id=f"{name}-{noise}{'-additive' * additive}")
    for name in ADAPTIVE
    for noise in METHODS["sde", name].noise
    for additive in (False, True)
    if additive or not METHODS["sde", name].additive_only
]
kinds = pytest.mark.parametrize(("name", "noise", "additive"), KINDS)


@kinds
def test_the_error_is_the_difference_to_the_lower_method(name, noise, additive):
    method = METHODS["sde", name]
    y, t, h = start(50), 0.4, 0.05
    for calculus in method.calculus:
        inc = draw(noise, 50, t, h)
        system = system_of(problem_of(noise, additive, calculus), y)
        y1, error = method.step(system, State(y), inc, error=True)[:2]
        f, g = system.drift(inc.t0, y), system.diffusion(inc.t0, y)
        euler = y + h * f + system.noise_term(g, inc.w)
        if isinstance(method, StochasticRungeKutta):
            wanted, lower = written_out(method, system, y, inc)
            assert (y1.y - wanted).abs().max() < 1e-13
            if method.additive_only:
                assert (lower - euler).abs().max() < 1e-13
        elif name == "heun":
            lower = euler
        elif name in (*STRATONOVICH, *SHIFTED):
            wanted, lower = in_words(name, system, y, inc)
            assert (y1.y - wanted).abs().max() < 1e-13
        else:
            if name == "derivative_free_milstein":
                square, trace = differences(system, noise, inc, y)
            else:
                square, trace = (0.0, 0.0) if additive else slope_along(noise, t, y, inc.w)
            correction = h * trace / 2 if calculus == "ito" else 0.0
            assert (y1.y - (euler + square / 2 - correction)).abs().max() < 1e-13
            f1, g1 = system.drift(inc.t1, y1.y), system.diffusion(inc.t1, y1.y)
            trapezoidal = y + h * (f + f1) / 2 + system.noise_term(g + g1, inc.w) / 2 - correction
            lower = y1.y - (trapezoidal - y1.y)
        assert (error - (y1.y - lower)).abs().max() < 1e-13
        assert torch.equal(method.step(system, State(y), inc).state.y, y1.y)
        assert method.step(system, State(y), inc).error is None


@kinds
def test_the_error_is_of_its_order_in_the_length_of_the_step(name, noise, additive):
    method, y = METHODS["sde", name], start(2000)
    system = system_of(problem_of(noise, additive, method.calculus[0]), y)
    sizes = []
    for k in range(8, 13):
        error = method.step(system, State(y), draw(noise, 2000, 0.4, 2.0**-k), error=True).error
        sizes.append(float(error.square().mean().sqrt().log2()))
    # Heun's estimate of order 1 is that of a diffusion which depends on y
    order = 1.5 if additive else method.error_order
    assert abs(-np.polyfit(range(5), sizes, 1)[0] - order) < 0.1


def one_error(method, f, g, noise="diagonal", additive=False):
    y = start(20)
    sde = ss.SDE(f, g, noise=noise, additive=additive, calculus=method.calculus[0])
    return method.step(system_of(sde, y), State(y), draw(noise, 20, 0.4, 0.1), error=True).error


@pytest.mark.parametrize("name", ADAPTIVE)
def test_the_error_sees_the_drift_the_diffusion_and_both_in_time_and_nothing_where_they_are_constant(name):
    method = METHODS["sde", name]
    none, one = lambda t, y: torch.zeros_like(y), lambda t, y: torch.ones_like(y)
    additive = method.additive_only
    assert one_error(method, lambda t, y: torch.full_like(y, 3.0), one, additive=additive).abs().max() < 1e-14
    seen = {
        "drift": (lambda t, y: torch.sin(y), one),
        "drift in time": (lambda t, y: torch.sin(t) * torch.ones_like(y), none),
        "diffusion in time": (none, lambda t, y: torch.sin(t) * torch.ones_like(y)),
    }
    if not additive:
        seen["diffusion"] = (none, lambda t, y: torch.sin(y))
    for what, (f, g) in seen.items():
        assert one_error(method, f, g, additive=additive).abs().median() > 1e-6, what


# ---- evaluations


class Watched:
    """A function that notes the times at which it is called."""

    def __init__(self, function):
        self.function, self.times = function, []

    def __call__(self, t, y):
        self.times.append(t)
        return self.function(t, y)


@pytest.mark.parametrize("error", [False, True], ids=["", "error"])
@kinds
def test_a_step_makes_the_evaluations_that_the_method_states(name, noise, additive, error):
    method, y = METHODS["sde", name], start(4)
    for calculus in method.calculus:
        f, g = Watched(drift), Watched(diffusion(noise, additive))
        sde = ss.SDE(f, g, noise=noise, additive=additive, calculus=calculus, commutative=True)
        method.step(system_of(sde, y), State(y), draw(noise, 4, 0.4, 0.1), error=error)
        assert len(f.times) == method.drift_evaluations + error * method.error_drift_evaluations
        # Milstein's method, Ito, general noise: one along each of three columns, where one along g W serves otherwise
        columns = 2 if name.endswith("milstein") and noise == "general" and calculus == "ito" else 0
        assert len(g.times) == method.diffusion_evaluations + columns + error * method.error_diffusion_evaluations


@pytest.mark.parametrize("name", ADAPTIVE)
def test_no_function_is_evaluated_outside_the_step(name):
    """In single precision, in which t0 + c h may lie beyond t1."""
    method, y = METHODS["sde", name], torch.ones(500, 2)
    generator = torch.Generator().manual_seed(0)
    t0, t1 = (10 * torch.rand(500, 1, generator=generator) for _ in range(2))
    t0 = -t0
    f, g = Watched(lambda t, y: -t * y), Watched(lambda t, y: t * torch.ones_like(y))
    sde = ss.SDE(f, g, additive=method.additive_only, calculus=method.calculus[0])
    w = (t1 - t0).sqrt() * torch.randn(500, 2, generator=generator)
    method.step(system_of(sde, y), State(y), Increments(t0, t1, t1 - t0, w, w / 4), error=True)
    for t in (*f.times, *g.times):
        assert ((t >= t0) & (t <= t1)).all()
    if isinstance(method, StochasticRungeKutta) and 1.0 in method.tableau.c1:
        assert any(torch.equal(t, t1) for t in g.times)


# ---- steps of other kinds


def rowwise(function):
    """A function of one time, for trajectories that have one each."""

    def rows(t, y):
        if t.ndim == 0:
            return function(t, y)
        return torch.cat([function(time, one[None]) for time, one in zip(t[:, 0], y, strict=True)])

    return rows


@kinds
def test_a_step_of_length_zero_returns_the_state_and_has_finite_gradients(name, noise, additive):
    method = METHODS["sde", name]
    y, h = start(2).requires_grad_(), tensor([0.0], [0.1])
    w, H = (x * (h > 0) for x in draw(noise, 2, 0.4, 0.1)[3:5])
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    f, g = rowwise(drift), rowwise(diffusion(noise, additive))
    sde = ss.SDE(
        lambda t, y: scale * f(t, y),
        lambda t, y: scale * g(t, y),
        noise=noise, additive=additive, calculus=method.calculus[0], commutative=True,
    )  # fmt: skip
    step = method.step(system_of(sde, y), State(y), Increments(0.4 + 0 * h, 0.4 + h, h, w, H), error=True)
    assert torch.equal(step.state.y[0], y[0]) and (step.error[0] == 0).all()
    assert (step.state.y[1] != y[1]).all()
    gradients = torch.autograd.grad(step.state.y.square().sum() + step.error.square().sum(), (y, scale))
    assert all(x.isfinite().all() for x in gradients)
    assert torch.allclose(gradients[0][0], 2 * y[0])


@kinds
def test_trajectories_with_clocks_of_their_own_take_the_steps_that_they_take_alone(name, noise, additive):
    method, y = METHODS["sde", name], start(3)
    own = [draw(noise, 1, t, h, seed) for seed, (t, h) in enumerate([(0.1, 0.2), (0.5, 0.01), (1.0, 0.1)])]
    times = (torch.stack(column)[:, None] for column in list(zip(*own, strict=True))[:3])
    noises = (torch.cat(column) for column in list(zip(*own, strict=True))[3:5])
    sde = ss.SDE(
        rowwise(drift), rowwise(diffusion(noise, additive)),
        noise=noise, additive=additive, calculus=method.calculus[0], commutative=True,
    )  # fmt: skip
    together = method.step(system_of(sde, y), State(y), Increments(*times, *noises), error=True)
    for i, inc in enumerate(own):
        alone = method.step(system_of(sde, y[i : i + 1]), State(y[i : i + 1]), inc, error=True)
        assert torch.allclose(together.state.y[i], alone.state.y[0], rtol=1e-13, atol=1e-14)
        assert torch.allclose(together.error[i], alone.error[0], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)], ids=str)
@pytest.mark.parametrize("name", ADAPTIVE)
def test_a_state_of_any_shape_takes_the_step_of_its_elements(name, shape):
    """Three trajectories, and each of them with batched=False; diffusions that broadcast."""
    method = METHODS["sde", name]
    t0, t1, h = (torch.tensor(x, dtype=torch.float64) for x in (0.4, 0.5, 0.1))
    f, additive = lambda t, y: torch.cos(y) - t * y, method.additive_only
    for noise in ("diagonal", "scalar") if shape else ("diagonal",):
        for g in (lambda t, y: torch.sin(t), lambda t, y: 1 + t) if additive else (lambda t, y: t + y,):
            sde = lambda batched: ss.SDE(
                f, g, noise=noise, additive=additive, calculus=method.calculus[0], batched=batched  # noqa: B023
            )  # fmt: skip
            generator = torch.Generator().manual_seed(0)
            y = torch.randn(3, *shape, generator=generator, dtype=torch.float64)
            wide = shape if noise == "diagonal" else (1,)
            w, H = torch.randn(2, 3, *wide, generator=generator, dtype=torch.float64) * 0.1
            system = System(sde(True), state_spec(y, True)[0])
            step = method.step(system, State(y), Increments(t0, t1, h, w, H), error=True)
            assert step.state.y.shape == step.error.shape == y.shape
            for i in range(3):
                one = System(sde(False), state_spec(y[i], False)[0])
                alone = method.step(one, State(y[i]), Increments(t0, t1, h, w[i : i + 1], H[i : i + 1]), error=True)
                assert torch.allclose(alone.state.y, step.state.y[i], rtol=1e-13)
                assert torch.allclose(alone.error, step.error[i], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", ["sra1", "sosra", "sriw1", "sosri"])
def test_a_step_back_over_an_additive_step_returns_to_its_start_to_the_order_of_the_method(name):
    """The reversed path has the increment -w and the same H. What is left is of order h^2, and of mean h^(5/2)."""
    method, y = METHODS["sde", name], start(2000)
    system = system_of(problem_of("diagonal", additive=True), y)
    sizes = []
    for k in range(6, 11):
        inc = draw("diagonal", 2000, 0.4, 2.0**-k)
        there = method.step(system, State(y), inc).state
        back = method.step(system, there, Increments(inc.t1, inc.t0, -inc.h, -inc.w, inc.H)).state
        sizes.append(float((back.y - y).square().mean().sqrt().log2()))
    assert abs(-np.polyfit(range(5), sizes, 1)[0] - 2) < 0.15


@pytest.mark.parametrize(
    ("name", "noise"),
    [
        *((name, "scalar") for name in names("sde") if "scalar" in METHODS["sde", name].noise),
        ("milstein", "general"),
        ("derivative_free_milstein", "general"),
    ],
)
def test_a_compiled_loop_takes_the_steps_as_one_graph(name, noise):
    method, y = METHODS["sde", name], start(4)
    system = system_of(problem_of(noise, method.additive_only, method.calculus[0]), y)
    assert_steps_are_one_graph(method, system, y, draw(noise, 4, 0.4, 0.1))


# ---- which method for which problem


def chosen(method=None, **sde):
    return choose(system_of(ss.SDE(drift, drift, **sde), start(2)), method).name


def test_the_default_is_the_highest_order_that_the_structure_of_the_noise_allows():
    assert chosen(additive=True) == chosen(additive=True, noise="general", calculus="stratonovich") == "sosra"
    assert chosen() == chosen(noise="scalar") == "sosri"
    assert chosen(noise="general") == "euler_maruyama"
    assert chosen(noise="general", commutative=True) == "milstein"
    assert chosen(noise="general", calculus="stratonovich") == "heun"
    for commuting in ({}, {"noise": "scalar"}, {"noise": "general", "commutative": True}):
        assert chosen(calculus="stratonovich", **commuting) == "slow_rk"
    y = start(2)
    assert choose(System(ss.ODE(drift), state_spec(y, True)[0]), None).name == "tsit5"


def accepted(name, **sde):
    try:
        return chosen(name, **sde) == name
    except ValueError:
        return False


def listed(error):
    """The methods that a refusal says there are."""
    return set(str(error).split("there are: ")[1].split(".")[0].split(", "))


def able(**sde):
    return {name for name in names("sde") if accepted(name, **sde)}


@pytest.mark.parametrize("name", ["sra1", "sosra"])
def test_a_method_for_additive_noise_is_refused_where_noise_is_not_said_to_be_additive(name):
    with pytest.raises(ValueError, match="additive=True") as caught:
        chosen(name)
    assert f"{name!r} for an SDE without additive=True" in str(caught.value)
    assert listed(caught.value) == able() >= {"euler_maruyama", "milstein", "sriw1", "sosri"}


def test_milstein_is_refused_for_general_noise_that_is_not_said_to_be_commutative():
    for calculus, others in (("ito", {"euler_maruyama"}), ("stratonovich", {"heun", "reversible_heun"})):
        with pytest.raises(ValueError, match="commutative=True") as caught:
            chosen("milstein", noise="general", calculus=calculus)
        assert listed(caught.value) == able(noise="general", calculus=calculus) >= others
        for said in ({"commutative": True}, {"additive": True}):
            assert chosen("milstein", noise="general", calculus=calculus, **said) == "milstein"


def test_sri_methods_are_refused_for_general_noise_and_for_the_stratonovich_calculus():
    for name in ("sriw1", "sosri"):
        with pytest.raises(ValueError, match="noise 'diagonal' or 'scalar'"):
            chosen(name, noise="general")
        with pytest.raises(ValueError, match="method='slow_rk'"):
            chosen(name, calculus="stratonovich")
