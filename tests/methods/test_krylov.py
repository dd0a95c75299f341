"""GMRES for a linear system a trajectory, and Newton-Krylov steps of the implicit methods for ODEs."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sdesolve as ss
from sdesolve.methods import ESDIRK54, METHODS, TRBDF2, BackwardEuler, KenCarp4, Kvaerno3
from sdesolve.methods.krylov import VECTORS, gmres, restarted
from sdesolve.methods.newton_krylov import LARGE, Shifted
from sdesolve.solution import Status
from sdesolve.state import state_spec
from sdesolve.system import System
from tests.methods.test_convergence import slope

F64 = torch.float64
METHODS_OF = [BackwardEuler, TRBDF2, Kvaerno3, KenCarp4, ESDIRK54]
each = pytest.mark.parametrize("method", METHODS_OF, ids=lambda m: m.name)


def tensor(*values) -> torch.Tensor:
    return torch.tensor(values, dtype=F64)


def normal(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def product_of(matrix):
    return lambda v: (matrix[: len(v)] * v[:, None]).sum(-1)


def conditioned(seed, batch, n, condition):
    """Matrices whose singular values fall from 1 to 1 / condition."""
    left, right = (torch.linalg.qr(normal(seed + k, batch, n, n))[0] for k in (0, 1))
    values = torch.logspace(0, -np.log10(condition), n, dtype=F64) if n > 1 else torch.ones(1, dtype=F64)
    return (left * values) @ right


def solved(matrix, right, scale=None, tolerance=0.0, **options):
    scale = torch.ones_like(right) if scale is None else scale
    return gmres(product_of(matrix), right, scale, torch.full_like(right[:, 0], tolerance), **options)


def mean_square(x):
    return x.square().mean(1).sqrt()


# ---- linear systems


@settings(max_examples=40)
@given(
    n=st.integers(1, 12),
    batch=st.integers(1, 4),
    power=st.floats(0, 8),
    seed=st.integers(0, 1000),
    spread=st.floats(0, 6),
)
def test_n_vectors_solve_a_system_of_n_as_well_as_its_condition_lets_them(n, batch, power, seed, spread):
    matrix, right = conditioned(seed, batch, n, 10**power), normal(seed + 2, batch, n)
    scale = 10 ** (spread * torch.rand(batch, n, generator=torch.Generator().manual_seed(seed), dtype=F64))
    found = solved(matrix, right, scale)
    exact = torch.linalg.solve(matrix, right[..., None])[..., 0]
    scaled = torch.linalg.cond(matrix * scale[:, None] / scale[..., None])[:, None]
    assert ((found.x - exact).abs() / scale <= 1e-13 * scaled * (1 + (exact / scale).abs().amax(1, True))).all()
    assert (found.vectors <= n).all()


@settings(max_examples=20)
@given(n=st.integers(3, 12), m=st.integers(1, 6), seed=st.integers(0, 1000))
def test_m_vectors_have_the_least_residual_of_the_krylov_space_in_the_scaled_norm_and_say_it(n, m, seed):
    matrix, right, scale = normal(seed, 2, n, n), normal(seed + 1, 2, n), normal(seed + 2, 2, n).abs() + 0.1
    found = solved(matrix, right, scale, most=m)
    powers = [right]
    for _ in range(min(m, n)):
        powers.append((matrix @ powers[-1][..., None])[..., 0])
    space = torch.stack(powers, -1) / scale[..., None]
    least = torch.linalg.lstsq(space[..., 1:], space[..., :1]).solution
    wanted = mean_square((space[..., :1] - space[..., 1:] @ least)[..., 0])
    residual = mean_square((right - product_of(matrix)(found.x)) / scale)
    size = mean_square(right / scale)
    assert ((residual - wanted).abs() <= 1e-8 * size).all()
    assert ((residual - found.residual).abs() <= 1e-11 * size).all()


def test_a_trajectory_stops_at_its_tolerance_with_the_vectors_that_it_needs():
    matrix = torch.diag_embed(torch.stack([torch.linspace(1, end, 30, dtype=F64) for end in (1.0, 3.0, 100.0)]))
    right, tolerance = normal(0, 3, 30), tensor(1e-6, 1e-3, 1e-9)
    found = gmres(product_of(matrix), right, torch.ones_like(right), tolerance)
    assert found.vectors.tolist() == sorted(found.vectors.tolist()) and found.vectors[0] == 1
    assert (found.residual <= tolerance).all()
    for i, m in enumerate(found.vectors.tolist()):
        assert m == 1 or (solved(matrix, right, most=m - 1).residual > tolerance)[i]


@settings(max_examples=15)
@given(n=st.integers(1, 40), seed=st.integers(0, 1000))
def test_a_trajectory_is_bitwise_the_same_alone(n, seed):
    matrix, right = torch.eye(n, dtype=F64) + normal(seed, 5, n, n) / n, normal(seed + 1, 5, n)
    right[3] = 0
    together = solved(matrix, right, tolerance=1e-8)
    for i in range(5):
        alone = solved(matrix[i : i + 1], right[i : i + 1], tolerance=1e-8)
        for mine, whole in zip(alone, together, strict=True):
            assert torch.equal(mine[0], whole[i])


def test_nothing_solves_a_right_side_of_zero_and_one_vector_what_is_close_to_it():
    matrix = normal(0, 2, 5, 5)
    found = solved(matrix, torch.zeros(2, 5, dtype=F64))
    assert (found.x == 0).all() and (found.vectors == 0).all() and (found.residual == 0).all()
    # a tolerance that is met from the beginning, as over a step of length 0
    identity = torch.eye(5, dtype=F64).expand(2, 5, 5)
    right = normal(1, 2, 5)
    found = solved(identity, right, tolerance=float("inf"))
    assert torch.allclose(found.x, right, rtol=1e-15) and (found.vectors == 1).all()


@pytest.mark.parametrize("where", ["right", "matrix"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_in_its_trajectory(where, value):
    matrix, right = torch.eye(6, dtype=F64) + 0.3 * normal(0, 3, 6, 6), normal(1, 3, 6)
    good = solved(matrix, right, tolerance=1e-10)
    if where == "right":
        right[1, 2] = value
    else:
        matrix[1, 2, 3] = value
    found = solved(matrix, right, tolerance=1e-10)
    assert found.x[1].isnan().all() and not found.residual[1].isfinite()
    for mine, whole in zip(found, good, strict=True):
        assert torch.equal(mine[[0, 2]], whole[[0, 2]])


def test_a_singular_matrix_leaves_what_it_cannot_reach():
    found = solved(torch.diag_embed(tensor([2.0, 0.0], [0.0, 0.0])), tensor([1.0, 1.0], [1.0, 3.0]))
    assert found.x.isfinite().all() and torch.allclose(found.residual, tensor(0.5**0.5, 5**0.5))


def test_cycles_solve_what_one_does_not():
    n = 300
    matrix = torch.eye(n, dtype=F64) - 2000 * laplacian(n, 1.0)
    right = normal(0, 1, n)
    assert solved(matrix[None], right, tolerance=1e-8).residual.item() > 1e-3
    found = restarted(product_of(matrix[None]), right, torch.ones_like(right), tensor(1e-8), 40)
    assert found.solved.all() and found.products.item() > VECTORS
    assert torch.allclose(found.x[0], torch.linalg.solve(matrix, right[0]), atol=1e-7)


def test_cycles_end_where_rounding_lets_no_residual_be_smaller():
    matrix, right = conditioned(0, 1, 6, 1e12), normal(1, 1, 6)
    found = restarted(product_of(matrix), right, torch.ones_like(right), tensor(0.0), 10)
    assert found.solved.all() and found.products.item() < 40


# ---- steps


def laplacian(n, h):
    """Second differences with values 0 beyond both ends."""
    ones = torch.ones(n - 1, dtype=F64)
    return (torch.diag(ones, 1) + torch.diag(ones, -1) - 2 * torch.eye(n, dtype=F64)) / h**2


def diffused(y):
    """The same times h^2, of each row."""
    return torch.nn.functional.pad(y[..., :-1], (1, 0)) + torch.nn.functional.pad(y[..., 1:], (0, 1)) - 2 * y


def heat(n):
    return lambda t, y: (n + 1) ** 2 * diffused(y)


def reaction(n, d=0.02):
    """Diffusion with sources that depend on time and state."""
    return lambda t, y: d * (n + 1) ** 2 * diffused(y) + torch.sin(3 * t) * y - y**3


def grid(n):
    return torch.arange(1, n + 1, dtype=F64) / (n + 1)


def test_heat_decays_as_its_modes_do():
    """Second differences take sin(k pi x) to -4 (n + 1)^2 sin^2(k pi / 2 (n + 1)) times it."""
    n, x = 500, grid(500)
    modes = torch.tensor([[1.0, 0, 0.3], [0, 1.0, 0]], dtype=F64)
    k = tensor(1.0, 2.0, 7.0)
    shapes = torch.sin(k[:, None] * torch.pi * x)
    rates = 4 * (n + 1) ** 2 * torch.sin(k * torch.pi / (2 * (n + 1))) ** 2
    ts = tensor(0.0, 0.005, 0.02)
    exact = (modes * torch.exp(-rates * ts[:, None, None])) @ shapes
    for method, rtol in ((ESDIRK54, 1e-5), (TRBDF2, 1e-4)):
        sol = ss.solve(ss.ODE(heat(n)), modes @ shapes, ts, method=method(linear="krylov"), rtol=rtol, atol=rtol)
        assert (sol.ys - exact).abs().max() < 10 * rtol
        assert sol.stats.steps.max() < 200, "stability would ask for 50,000"


@each
def test_fixed_steps_are_those_with_factors(method):
    n, ts = 20, tensor(0.0, 0.3, 1.0)
    y0 = torch.stack([torch.sin(torch.pi * grid(n)), torch.cos(5 * grid(n))])
    dense, krylov = (
        ss.solve(ss.ODE(reaction(n)), y0, ts, dt=0.1, method=method(linear=linear)) for linear in ("dense", "krylov")
    )
    assert torch.allclose(krylov.ys, dense.ys, rtol=1e-10, atol=1e-10)


def test_adaptive_steps_are_about_those_with_factors():
    n, ts = 30, tensor(0.0, 0.5)
    y0 = torch.sin(torch.pi * grid(n))[None] + 0.1 * normal(0, 2, n)
    for method in (TRBDF2, ESDIRK54):
        rtol = 1e-3 if method.order < 3 else 1e-5
        dense, krylov = (
            ss.solve(ss.ODE(reaction(n)), y0, ts, rtol=rtol, atol=1e-2 * rtol, method=method(linear=linear))
            for linear in ("dense", "krylov")
        )
        assert (krylov.ys - dense.ys).abs().max() < rtol, method
        assert ((krylov.stats.steps - dense.stats.steps).abs() <= 2 + 0.05 * dense.stats.steps).all(), method


def test_the_error_falls_with_the_order():
    n, ts = 12, tensor(0.0, 1.0)
    y0 = torch.sin(torch.pi * grid(n))[None]
    exact = ss.solve(ss.ODE(reaction(n)), y0, ts, method="dopri5", rtol=1e-13, atol=1e-13).ys[-1]
    steps = [1 / k for k in (8, 11, 16, 22)]
    errors = [
        float(
            (ss.solve(ss.ODE(reaction(n)), y0, ts, dt=dt, method=ESDIRK54(linear="krylov")).ys[-1] - exact).abs().max()
        )
        for dt in steps
    ]
    assert abs(slope(steps, errors) - 5) < 0.25, errors


def test_a_split_problem_is_solved_without_a_matrix():
    n, ts = 30, tensor(0.0, 0.5)
    y0 = torch.sin(torch.pi * grid(n))[None]
    problem = ss.SplitODE(lambda t, y: 0.1 * (n + 1) ** 2 * diffused(y), lambda t, y: torch.cos(3 * t) * y**2)
    exact = ss.solve(problem, y0, ts, method="esdirk54", rtol=1e-9, atol=1e-10).ys[-1]
    sol = ss.solve(problem, y0, ts, method=KenCarp4(linear="krylov"), rtol=1e-5, atol=1e-7)
    assert (sol.ys[-1] - exact).abs().max() < 1e-5
    assert sol.stats.steps.max() < 100


@each
@pytest.mark.parametrize("options", [{"dt": 0.1}, {"rtol": 1e-4, "atol": 1e-6}], ids=["fixed", "adaptive"])
@pytest.mark.parametrize("graph", [False, True], ids=["", "graph"])
def test_evaluations_are_the_calls_and_the_products(method, options, graph, monkeypatch):
    calls, products, n, product = [], [], 10, Shifted.product

    def counted(self, **kind):
        plain = product(self, **kind)
        return lambda v: products.append(1) or plain(v)

    monkeypatch.setattr(Shifted, "product", counted)
    f = lambda t, y: calls.append(1) or reaction(n)(t, y)
    y0 = torch.sin(torch.pi * grid(n))[None].requires_grad_(graph)
    sol = ss.solve(ss.ODE(f), y0, tensor(0.0, 0.2, 0.5), method=method(linear="krylov"), **options)
    assert int(sol.stats.drift_evaluations) == len(calls) + len(products) and len(products) > 10


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=["float32", "float64"])
@pytest.mark.parametrize("options", [{"dt": 0.1}, {"rtol": 1e-3, "atol": 1e-4}], ids=["fixed", "adaptive"])
def test_a_trajectory_is_bitwise_the_same_alone_and_in_a_batch(dtype, options):
    n, ts = 64, torch.tensor([0.0, 0.5], dtype=dtype)
    y0 = (normal(0, 9, n) * tensor(*(3.0**-k for k in range(9)))[:, None]).to(dtype)
    run = lambda y: ss.solve(ss.ODE(reaction(n)), y, ts, method=Kvaerno3(linear="krylov"), **options)
    together = run(y0)
    for i in (0, 4, 8):
        alone = run(y0[i : i + 1])
        assert torch.equal(alone.ys[:, 0], together.ys[:, i])
        assert alone.stats.drift_evaluations[0] == together.stats.drift_evaluations[i]


def test_a_state_of_any_shape_is_solved_and_one_of_no_batch():
    n, ts = 24, tensor(0.0, 0.5)
    y0 = normal(0, 2, n)
    f = reaction(n)
    plain = ss.solve(ss.ODE(f), y0, ts, dt=0.1, method=ESDIRK54(linear="krylov")).ys
    shaped = lambda t, y: f(t.reshape(-1, 1) if t.ndim else t, y.reshape(-1, n)).reshape(y.shape)
    sol = ss.solve(ss.ODE(shaped), y0.reshape(2, 4, 6), ts, dt=0.1, method=ESDIRK54(linear="krylov"))
    assert torch.equal(sol.ys.reshape(plain.shape), plain)
    sol = ss.solve(ss.ODE(f, batched=False), y0[0], ts, dt=0.1, method=ESDIRK54(linear="krylov"))
    assert torch.allclose(sol.ys, plain[:, 0], rtol=1e-12, atol=1e-12)
    sol = ss.solve(ss.ODE(f, vectorize=True), y0, ts, dt=0.1, method=ESDIRK54(linear="krylov"))
    assert torch.allclose(sol.ys, plain, rtol=1e-12, atol=1e-12)


def test_states_above_a_size_have_no_matrix_unless_the_problem_gives_one():
    def free(n, problem=None, **options):
        problem = ss.ODE(lambda t, y: -y) if problem is None else problem
        system = System(problem, state_spec(torch.ones(2, n), True)[0])
        method = Kvaerno3(**options)
        assert n > 10 or (method.init(system, torch.zeros(()), torch.ones(2, n))[1].numel() == 0) == (
            options.get("linear") == "krylov"
        )
        return method._matrix_free(system)

    assert not free(LARGE) and free(LARGE + 1)
    assert free(3, linear="krylov") and not free(3) and not free(LARGE + 1, linear="dense")
    given = ss.ODE(lambda t, y: -y, jacobian=lambda t, y: -torch.eye(y.shape[1]).expand(len(y), -1, -1))
    assert not free(LARGE + 1, given) and free(3, given, linear="krylov")
    assert all(METHODS["ode", m.name].linear is None for m in METHODS_OF)


@pytest.mark.parametrize("linear", ["gmres", 3, True])
def test_another_way_is_refused(linear):
    with pytest.raises(ValueError, match=r"linear: got .*'dense', 'krylov' or None"):
        ESDIRK54(linear=linear)


# ---- failures


def test_a_trajectory_whose_iteration_does_not_converge_fails_alone():
    """y' = exp(y) has no implicit step of length 1 from y = 1."""
    y0, ts = tensor([-3.0, -2.0], [1.0, -2.0], [-2.0, -2.5]), tensor(0.0, 1.0)
    how = {"dt": 1.0, "method": BackwardEuler(linear="krylov"), "on_failure": "return"}
    sol = ss.solve(ss.ODE(lambda t, y: torch.exp(y)), y0, ts, **how)
    assert sol.status.tolist() == [Status.SUCCESS, Status.NOT_CONVERGED, Status.SUCCESS]
    for i in (0, 2):
        z = sol.ys[-1, i]
        assert (z - y0[i] - z.exp()).abs().max() < 1e-11


def test_steps_shrink_to_where_few_vectors_are_enough():
    """One cycle of a stiff spectrum without gaps is not enough for the first step."""
    n = 400
    rates = torch.logspace(0, 8, n, dtype=F64)
    f = lambda t, y: -rates * (y - torch.cos(t))
    sol = ss.solve(
        ss.ODE(f), tensor([1.0]).expand(1, n), tensor(0.0, 1e-3), method=Kvaerno3(linear="krylov"), rtol=1e-4
    )
    assert (sol.ys[-1] - np.cos(1e-3)).abs().max() < 1e-4


# ---- derivatives


@pytest.mark.parametrize("method", [BackwardEuler, TRBDF2], ids=lambda m: m.name)
def test_first_and_second_derivatives_of_fixed_steps_are_right(method):
    def end(y0, p, ts):
        f = lambda t, y: p[0] * diffused(y) * torch.cos(t) - p[1] * y**3
        return ss.solve(ss.ODE(f), y0, ts, dt=0.25, method=method(linear="krylov")).ys[-1]

    inputs = [tensor([1.0, 0.3], [0.5, -1.0]), tensor(20.0, 1.2), tensor(0.0, 0.45)]
    inputs = [x.requires_grad_() for x in inputs]
    assert torch.autograd.gradcheck(end, inputs)
    assert torch.autograd.gradgradcheck(lambda y0, p: end(y0, p, inputs[2].detach()), inputs[:2])


@pytest.mark.parametrize("adjoint", ["direct", "checkpoint"])
def test_gradients_of_adaptive_steps_are_those_with_factors(adjoint):
    n = 20

    def gradients(linear):
        p, y0 = tensor(0.02, 1.0).requires_grad_(), torch.sin(torch.pi * grid(n))[None].requires_grad_()
        f = lambda t, y: p[0] * (n + 1) ** 2 * diffused(y) - p[1] * y**3
        how = {"rtol": 1e-6, "atol": 1e-8, "adjoint": adjoint, "method": Kvaerno3(linear=linear)}
        return torch.autograd.grad(ss.solve(ss.ODE(f), y0, tensor(0.0, 0.3), **how).ys[-1].square().sum(), (p, y0))

    for mine, wanted in zip(gradients("krylov"), gradients("dense"), strict=True):
        assert torch.allclose(mine, wanted, rtol=1e-4, atol=1e-6)


def test_gradients_of_others_are_untouched_by_a_failure():
    rate = tensor(1.0).requires_grad_()
    y0, ts = tensor([-3.0, -2.0], [1.0, 1.0]), tensor(0.0, 1.0)
    how = {"dt": 1.0, "method": TRBDF2(linear="krylov"), "on_failure": "return"}
    solved = lambda y: ss.solve(ss.ODE(lambda t, y: rate * torch.exp(y)), y, ts, **how).ys[-1, 0]
    (both,), (alone,) = (torch.autograd.grad(solved(y).sum(), rate) for y in (y0, y0[:1]))
    assert both.isfinite().all() and torch.allclose(both, alone, rtol=1e-12)


def test_transforms_go_through_fixed_steps():
    end = lambda y: ss.solve(ss.ODE(reaction(3)), y, tensor(0.0, 0.5), dt=0.25, method=Kvaerno3(linear="krylov")).ys[-1]
    y = normal(0, 2, 3)
    along = normal(1, 2, 3)
    forward = torch.func.jvp(end, (y,), (along,))[1]
    step = 1e-6
    assert torch.allclose(forward, (end(y + step * along) - end(y - step * along)) / (2 * step), atol=1e-7)


# ---- compiled


@pytest.mark.compile
@pytest.mark.traced
@pytest.mark.parametrize(
    ("method", "options"),
    [(TRBDF2, {"rtol": 1e-3, "atol": 1e-5}), (BackwardEuler, {"dt": 0.25})],
    ids=["adaptive", "fixed"],
)
def test_a_compiled_solve_is_the_eager_one(method, options):
    n = 16
    y0, ts = normal(0, 3, n), tensor(0.0, 0.5)
    options["method"] = method(linear="krylov")
    with torch.no_grad():
        eager, compiled = (ss.solve(ss.ODE(reaction(n)), y0, ts, compile=c, **options) for c in (False, True))
    assert torch.allclose(eager.ys, compiled.ys, rtol=1e-8, atol=1e-9)
    assert torch.equal(eager.stats.steps, compiled.stats.steps)
    assert torch.equal(eager.stats.drift_evaluations, compiled.stats.drift_evaluations)
