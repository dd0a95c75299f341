"""The Rosenbrock methods: order conditions, stability, stiff problems, Jacobians, failures, gradients."""

import math
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sdesolve as ss
from sdesolve.errors import FunctionError
from sdesolve.methods import METHODS, Increments, State
from sdesolve.methods.jacobian import value_and_jacobian
from sdesolve.solution import Status
from sdesolve.state import state_spec
from sdesolve.system import System
from tests.counted import Counted
from tests.methods.every_ode import plain
from tests.methods.one_graph import assert_steps_are_one_graph
from tests.methods.rooted_trees import density, trees
from tests.methods.stiff_problems import HIRES, ROBERTSON, VAN_DER_POL, radau, van_der_pol
from tests.methods.stochastic_problems import tensor

F64 = torch.float64
NAMES = ("rosenbrock23", "rodas5p")
each = pytest.mark.parametrize("name", NAMES)


def tableau_of(name):
    return METHODS["ode", name].tableau


class Classical:
    """alpha, Gamma, beta = alpha + Gamma of the stages k_i, and weights of u_i as weights of k_i."""

    def __init__(self, name):
        tab = tableau_of(name)
        full = lambda rows: np.array([[*row, *(0.0,) * (tab.stages - len(row))] for row in rows])
        self.gamma = np.linalg.inv(np.eye(tab.stages) / tab.gamma - full(tab.c))
        self.alpha = full(tab.a) @ self.gamma
        self.beta = self.alpha + self.gamma
        self.b, self.embedded = np.array(tab.b) @ self.gamma, np.array(tab.embedded) @ self.gamma
        self.dense = np.array(tab.dense).T @ self.gamma

    def stage_weights(self, tree):
        """Of a Rosenbrock tree: beta where a node has one child, alpha where it has more (Hairer & Wanner II, IV.7)."""
        if len(tree) == 1:
            return self.beta @ self.stage_weights(tree[0])
        weights = np.ones(len(self.beta))
        for child in tree:
            weights = weights * (self.alpha @ self.stage_weights(child))
        return weights

    def defects(self, b, order, theta=1.0):
        """|sum_i b_i Phi_i(tree) - theta^order / gamma(tree)| over the trees of this order."""
        return max(abs(b @ self.stage_weights(tree) - theta**order / density(tree)) for tree in trees(order))


def system_of(f, y, **how):
    return System(ss.ODE(f, **how), state_spec(y, how.get("batched", True))[0])


def one_step(name, f, y, h, t=0.0, **how):
    t0, t1, length = (torch.tensor(x, dtype=y.dtype) for x in (t, t + h, h))
    return METHODS["ode", name].step(system_of(f, y), State(y), Increments(t0, t1, length), error=True, **how)


def slope(steps, errors):
    x, y = np.log(steps), np.log(errors)
    return np.polyfit(x, y, 1)[0]


# ---- algebra


@each
def test_weights_satisfy_the_order_conditions_of_rosenbrock_trees_up_to_the_order_and_not_beyond(name):
    method, classical = METHODS["ode", name], Classical(name)
    for b, order in ((classical.b, method.order), (classical.embedded, method.tableau.embedded_order)):
        for p in range(1, order + 1):
            assert classical.defects(b, p) < 1e-13, p
        assert classical.defects(b, order + 1) > 1e-4
    assert method.error_order == min(method.order, method.tableau.embedded_order) + 1


@each
def test_nodes_and_what_df_dt_weighs_are_row_sums(name):
    tab, classical = tableau_of(name), Classical(name)
    assert np.abs(classical.alpha.sum(1) - tab.nodes).max() < 1e-13
    assert np.abs(classical.gamma.sum(1) - tab.slopes).max() < 1e-13
    assert np.abs(np.diag(classical.gamma) - tab.gamma).max() < 1e-15


@each
def test_dense_weights_satisfy_the_order_conditions_at_every_theta_and_meet_the_weights_at_the_end(name):
    tab, classical = tableau_of(name), Classical(name)
    order = {"rosenbrock23": 2, "rodas5p": 4}[name]
    for theta in np.linspace(0.05, 1, 20):
        weights = theta ** np.arange(1, len(classical.dense) + 1) @ classical.dense
        for p in range(1, order + 1):
            assert classical.defects(weights, p, theta) < 1e-13
    middle = 0.5 ** np.arange(1, len(classical.dense) + 1) @ classical.dense
    assert classical.defects(middle, order + 1, 0.5) > 1e-4
    assert np.abs(np.array(tab.dense).sum(1) - tab.b).max() < 1e-13


def test_rodas5p_is_stiffly_accurate_and_so_is_its_embedded_method():
    classical = Classical("rodas5p")
    close = lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=1e-13)
    close(classical.beta[-1], classical.b)
    close(classical.beta[-2], classical.embedded)
    close(classical.alpha[-2:].sum(1), 1)


def test_rodas5p_has_order_six_for_linear_equations_with_constant_coefficients():
    """R(z) = 1 + sum_p b beta^(p-1) 1 z^p agrees with exp(z)."""
    classical = Classical("rodas5p")
    power = np.ones(8)
    for p in range(1, 7):
        assert abs(classical.b @ power - 1 / math.factorial(p)) < 1e-13
        power = classical.beta @ power
    assert abs(classical.b @ power - 1 / math.factorial(7)) > 1e-6


def growth(name, z):
    """R(z) = 1 + z b (I - z beta)^-1 1."""
    classical = Classical(name)
    n = len(classical.b)
    return 1 + z * classical.b @ np.linalg.solve(np.eye(n) - z * classical.beta, np.ones(n))


@each
@settings(max_examples=30)
@given(power=st.floats(-2, 4), sign=st.sampled_from([-1, -1, 1]))
def test_a_step_multiplies_by_the_stability_function(name, power, sign):
    z = sign * 10.0 ** (power if sign < 0 else min(power, 0.0))
    found = one_step(name, lambda t, y: z * y, torch.ones(1, 1, dtype=F64), 1.0).state.y.item()
    assert abs(found - growth(name, z)) < 1e-10 * max(1, abs(found))
    if name == "rosenbrock23":
        d = 1 / (2 + math.sqrt(2))
        assert abs(found - (1 + (1 - 2 * d) * z) / (1 - d * z) ** 2) < 1e-12 * max(1, abs(found))


@each
def test_the_methods_are_l_stable(name):
    classical = Classical(name)
    # R(inf) = 1 - b beta^-1 1
    assert abs(1 - classical.b @ np.linalg.solve(classical.beta, np.ones(len(classical.b)))) < 1e-12
    axis = np.concatenate([[0.0], np.logspace(-2, 5, 2000)])
    assert max(abs(growth(name, 1j * w)) for w in axis) < 1 + 1e-12
    end = one_step(name, lambda t, y: -1e9 * (y - math.sin(1.0)), tensor([3.0]), 1.0).state.y.item()
    assert abs(end - math.sin(1.0)) < 1e-7


# ---- orders


def turning(t, y):
    """Rotation at the angular speed |y|^2."""
    u, v = y.unbind(-1)
    speed = u * u + v * v
    return torch.stack([-speed * v, speed * u], -1)


def forced(t, y):
    """y = (cos t^2, sin t^2) from (1, 0)."""
    u, v = y.unbind(-1)
    radius = u * u + v * v
    return torch.stack([-2 * t.reshape(-1) * v + u - u * radius, 2 * t.reshape(-1) * u + v - v * radius], -1)


ENDS = {
    "autonomous": (turning, lambda t: (math.cos(t), math.sin(t))),
    "time-dependent": (forced, lambda t: (math.cos(t * t), math.sin(t * t))),
}


@pytest.mark.parametrize("problem", ENDS)
@each
def test_error_falls_with_the_order_of_the_method(name, problem):
    f, exact = ENDS[problem]
    steps = [2 / n for n in ((16, 24, 32, 48) if name == "rodas5p" else (64, 96, 128, 192))]
    errors = []
    for dt in steps:
        sol = ss.solve(ss.ODE(f), tensor([1.0, 0.0]), tensor(0.0, 2.0), dt=dt, method=name)
        errors.append(float((sol.ys[-1, 0] - tensor(*exact(2.0))).norm()))
    assert abs(slope(steps, errors) - METHODS["ode", name].order) < 0.2, errors


@each
def test_the_error_estimate_is_of_its_order(name):
    method, steps = METHODS["ode", name], [2.0**-k for k in range(4, 8)]
    f, exact = ENDS["time-dependent"]
    y = tensor(exact(0.5))
    errors = [float(one_step(name, f, y, h, 0.5).error.norm()) for h in steps]
    assert abs(slope(steps, errors) - method.error_order) < 0.2, errors


def prothero_robinson(rate):
    """dy/dt = -rate (y - cos t) - sin t, whose solution from 1 is cos t."""
    return lambda t, y: -rate * (y - torch.cos(t)) - torch.sin(t)


@each
def test_errors_on_prothero_robinson_do_not_grow_with_stiffness(name):
    """rosenbrock23 keeps its order; rodas5p's error falls to a multiple of h^3 / rate, far below that at rate 1."""
    steps = [1 / n for n in ((10, 20, 40, 80) if name == "rosenbrock23" else (5, 10, 20))]
    for rate in (1.0, 1e3, 1e6, 1e9):
        errors = []
        for dt in steps:
            sol = ss.solve(ss.ODE(prothero_robinson(rate)), tensor([1.0]), tensor(0.0, 1.0), dt=dt, method=name)
            errors.append(abs(sol.ys[-1].item() - math.cos(1.0)))
        if name == "rosenbrock23":
            assert abs(slope(steps, errors) - 2) < 0.1 and errors[0] < 4e-4, rate
        elif rate < 1e6:
            assert slope(steps, errors) > 3.3 and errors[0] < 3e-8, rate
        else:
            assert all(error < 5e-3 * dt**3 / rate + 1e-15 for dt, error in zip(steps, errors, strict=True))


# ---- stiff problems


#: f, start, end, absolute tolerance over the relative one
STIFF = {
    "van der Pol, mu = 1000": (VAN_DER_POL.f, VAN_DER_POL.y0, VAN_DER_POL.T, 1e-2),
    "Robertson": (ROBERTSON.f, ROBERTSON.y0, 1e5, 1e-6),
    "HIRES": (HIRES.f, HIRES.y0, HIRES.T, 1e-3),
}


@cache
def tight(problem):
    """At 0, a tenth of the way, and the end."""
    f, y0, end, part = STIFF[problem]
    return radau(f, y0, [0.0, 0.1 * end, end], 1e-10, 1e-10 * part)


@pytest.mark.parametrize(
    ("name", "rtol", "problem", "steps"),
    [
        pytest.param("rosenbrock23", 1e-4, "van der Pol, mu = 1000", 800, marks=pytest.mark.slow),
        ("rosenbrock23", 1e-4, "Robertson", 300),
        ("rosenbrock23", 1e-4, "HIRES", 240),
        ("rodas5p", 1e-4, "van der Pol, mu = 1000", 320),
        ("rodas5p", 1e-4, "Robertson", 75),
        ("rodas5p", 1e-4, "HIRES", 75),
        ("rodas5p", 1e-7, "van der Pol, mu = 1000", 1150),
        ("rodas5p", 1e-7, "Robertson", 260),
        ("rodas5p", 1e-7, "HIRES", 400),
    ],
)
def test_stiff_problems_are_solved_to_the_tolerance_in_few_steps(name, rtol, problem, steps):
    """SciPy's Radau factorizes 310, 138 and 118 times at 1e-4."""
    f, y0, end, part = STIFF[problem]
    ts = tensor(0.0, 0.1 * end, end)
    sol = ss.solve(ss.ODE(f), tensor(y0), ts, method=name, rtol=rtol, atol=rtol * part)
    exact = tight(problem)
    ratio = (sol.ys[:, 0].numpy() - exact) / (rtol * part + rtol * np.abs(exact))
    error = np.sqrt((ratio**2).mean(1)).max()
    assert error < (4 if name == "rosenbrock23" else 1), error
    assert int(sol.stats.steps) < steps


def test_a_batch_of_van_der_pol_oscillators_takes_each_its_own_steps():
    mu, ts = torch.logspace(0, 3, 4, dtype=F64), tensor(0.0, 5.0)
    y0 = tensor([2.0, 0.0]).expand(4, 2).clone()
    how = {"method": "rodas5p", "rtol": 1e-6, "atol": 1e-8}
    sol = ss.solve(ss.ODE(van_der_pol(mu)), y0, ts, **how)
    for i in range(4):
        alone = ss.solve(ss.ODE(van_der_pol(mu[i])), y0[i : i + 1], ts, **how)
        assert alone.stats.steps.item() == sol.stats.steps[i].item() < 150
        torch.testing.assert_close(alone.ys[-1, 0], sol.ys[-1, i], rtol=1e-12, atol=1e-12)
        exact = radau(van_der_pol(mu[i].item()), (2.0, 0.0), [0.0, 5.0], 1e-9, 1e-11)[-1]
        assert np.abs(sol.ys[-1, i].numpy() - exact).max() < 1e-5
    assert len(set(sol.stats.steps.tolist())) == 4


def test_an_explicit_method_takes_many_times_the_steps():
    f, y0, _, _ = STIFF["HIRES"]
    explicit, implicit = (
        int(ss.solve(ss.ODE(f), tensor(y0), tensor(5.0, 60.0), method=name, rtol=1e-4, atol=1e-7).stats.steps)
        for name in ("tsit5", "rodas5p")
    )
    assert explicit > 20 * implicit


@each
def test_single_precision_solves_stiff_problems(name):
    y0 = torch.tensor([[2.0, 0.0]])
    f = van_der_pol(100.0)
    sol = ss.solve(ss.ODE(f), y0, torch.tensor([0.0, 50.0]), method=name, rtol=1e-3, atol=1e-4)
    exact = radau(f, (2.0, 0.0), [0.0, 50.0], 1e-8, 1e-10)[-1]
    assert sol.ys.dtype == torch.float32
    assert np.abs(sol.ys[-1, 0].numpy() - exact).max() < 1e-2


# ---- the drift: where it is evaluated, and how often


@pytest.mark.parametrize("dtype", [F64, torch.float32])
@pytest.mark.parametrize(
    "way", [{"dt": 0.07}, {"rtol": 1e-3, "atol": 1e-3}, {"rtol": 1e-3, "atol": 1e-3, "dense": True}]
)
@pytest.mark.parametrize("ts", [(0.1, 0.7, 1.3), (1.3, 0.4, 0.1)])
@each
def test_the_drift_is_never_evaluated_outside_the_span_of_ts(name, ts, way, dtype):
    seen = []

    def f(t, y):
        seen.append(plain(t).clone().reshape(-1))
        return torch.cos(5 * t) - 3 * y

    ts = torch.tensor(ts, dtype=dtype)
    ss.solve(ss.ODE(f), torch.ones(3, 2, dtype=dtype) * torch.arange(3)[:, None], ts, method=name, **way)
    seen = torch.cat(seen)
    assert seen.min() >= ts.min() and seen.max() <= ts.max()


@pytest.mark.parametrize(("name", "plain", "adaptive"), [("rosenbrock23", 2, 3), ("rodas5p", 8, 8)])
def test_a_step_takes_one_jacobian_one_factorization_and_an_evaluation_a_stage(name, plain, adaptive, monkeypatch):
    method = METHODS["ode", name]
    assert (method.drift_evaluations, method.evaluations(error=True)) == (plain, adaptive)
    assert method.evaluations(dense=True) == plain and method.first_evaluations == 0
    factorizations, factorize = [], torch.linalg.lu_factor_ex
    monkeypatch.setattr(torch.linalg, "lu_factor_ex", lambda x: factorizations.append(1) or factorize(x))
    J = tensor([-3.0, 1.0], [1.0, -2.0])
    for with_jacobian in (False, True):
        f, jacobian = Counted(lambda t, y: y @ J.T), Counted(lambda t, y: J.expand(len(y), 2, 2))
        problem = ss.ODE(f, jacobian=jacobian if with_jacobian else None)
        factorizations.clear()
        sol = ss.solve(problem, torch.ones(3, 2, dtype=F64), tensor(0.0, 1.0), dt=0.25, method=name)
        assert f.calls == 4 * plain == sol.stats.drift_evaluations[0]
        assert len(factorizations) == 4 and jacobian.calls == 4 * with_jacobian
        f.calls = jacobian.calls = 0
        sol = ss.solve(problem, torch.ones(3, 2, dtype=F64), tensor(0.0, 1.0), method=name, shared_steps=True)
        assert jacobian.calls == int(sol.stats.steps[0]) * with_jacobian
        # and two to begin with
        assert f.calls == int(sol.stats.steps[0]) * adaptive + 2 == sol.stats.drift_evaluations[0]


# ---- states and clocks


def rowwise(t, y):
    """Depends on t, and couples the elements of a trajectory of any shape."""
    flat = y.reshape(len(y), -1)
    return (torch.cos(t.reshape(-1, 1)) * flat.roll(1, 1) - flat**3 - 2 * flat).reshape(y.shape)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 2)], ids=str)
@each
def test_a_step_of_states_of_any_shape_with_clocks_of_their_own_is_that_of_each_alone(name, shape):
    y = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0), dtype=F64)
    wide = lambda x: x.reshape(4, *(1,) * len(shape))
    t0, h = wide(torch.linspace(0, 1, 4, dtype=F64)), wide(torch.linspace(0.05, 0.3, 4, dtype=F64))
    method = METHODS["ode", name]
    together = method.step(system_of(rowwise, y), State(y), Increments(t0, t0 + h, h), error=True, dense=True)
    for i in range(4):
        single = lambda t, y: rowwise(t, y[None])[0]
        inc = Increments(*(x[i].reshape(()) for x in (t0, t0 + h, h)))
        alone = method.step(system_of(single, y[i], batched=False), State(y[i]), inc, error=True, dense=True)
        for a, b in zip((alone.state.y, alone.error, *alone.dense),
                        (together.state.y, together.error, *together.dense), strict=True):  # fmt: skip
            torch.testing.assert_close(a, b[i], rtol=1e-13, atol=1e-14)
        assert alone.state.y.shape == shape


@each
def test_pytrees_and_functions_of_one_trajectory_take_the_same_steps(name):
    x, v = torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(1), dtype=F64).unbind()
    ts = tensor(0.0, 0.5, 1.0)
    flat = lambda t, y: torch.cat([y[..., 2:], torch.cos(t) - 30 * y[..., :2] ** 3], -1)
    tree = lambda t, y: {"x": y["v"], "v": torch.cos(t).reshape(-1, 1) - 30 * y["x"] ** 3}
    one = lambda t, y: {"x": y["v"], "v": torch.cos(t) - 30 * y["x"] ** 3}
    for how in ({"dt": 0.1}, {"rtol": 1e-5}):
        plain = ss.solve(ss.ODE(flat), torch.cat([x, v], 1), ts, method=name, **how).ys
        for problem in (ss.ODE(tree), ss.ODE(one, vectorize=True)):
            found = ss.solve(problem, {"x": x, "v": v}, ts, method=name, **how).ys
            torch.testing.assert_close(torch.cat([found["x"], found["v"]], -1), plain, rtol=1e-11, atol=1e-12)


@each
def test_the_continuous_adjoint_is_refused(name):
    with pytest.raises(ValueError, match=f"'backsolve' with the implicit method '{name}'.*'checkpoint'"):
        ss.solve(ss.ODE(lambda t, y: -y), tensor([1.0]), tensor(0.0, 1.0), method=name, adjoint="backsolve")


# ---- a Jacobian that is given


@pytest.mark.parametrize("batched", [True, False])
@each
def test_a_given_jacobian_gives_the_step_of_automatic_differentiation(name, batched):
    f = lambda t, y: torch.stack([y[..., 1] * torch.cos(t), -40 * y[..., 0] * y[..., 1]], -1)

    def jacobian(t, y):
        u, v = y.unbind(-1)
        zero = torch.zeros_like(u)
        rows = [[zero, torch.cos(t) + zero], [-40 * v, -40 * u]]
        return torch.stack([torch.stack(row, -1) for row in rows], -2)

    y = tensor([1.0, 0.5], [0.3, -0.2])
    y = y if batched else y[0]
    found, exact = (
        ss.solve(ss.ODE(f, jacobian=g, batched=batched), y, tensor(0.0, 1.0), dt=0.1, method=name)
        for g in (jacobian, None)
    )
    torch.testing.assert_close(found.ys, exact.ys, rtol=1e-13, atol=1e-14)


def test_a_given_jacobian_is_what_newton_takes():
    y, J = tensor([1.0, 2.0], [0.0, 1.0]), tensor([7.0, 8.0], [9.0, 10.0])
    problem = ss.ODE(lambda t, y: -y, jacobian=lambda t, y: J.expand(2, 2, 2))
    f, jacobian = value_and_jacobian(System(problem, state_spec(y, True)[0]), torch.tensor(0.0), y)
    assert torch.equal(f, -y) and torch.equal(jacobian, J.expand(2, 2, 2)) and not jacobian.requires_grad


def test_a_given_jacobian_of_a_pytree_goes_leaf_by_leaf_and_one_of_a_single_trajectory_is_mapped():
    y = {"a": tensor([[1.0, 2.0]], [[3.0, 4.0]]), "b": tensor(5.0, 6.0)}
    f = lambda t, y: {"a": y["a"] * y["b"], "b": y["a"].sum() - y["b"]}

    def jacobian(t, y):
        b, (u, v), one = y["b"], y["a"][0], torch.ones_like(y["b"])
        rows = [[b, 0 * b, u], [0 * b, b, v], [one, one, -one]]
        return torch.stack([torch.stack(row) for row in rows])

    spec, flat = state_spec(y, True)
    found, exact = (
        value_and_jacobian(System(ss.ODE(f, jacobian=g, vectorize=True), spec), torch.tensor(0.0), flat)[1]
        for g in (jacobian, None)
    )
    assert torch.allclose(found, exact)


def test_a_subclass_may_define_its_jacobian_and_a_module_is_registered():
    class Decay(ss.ODE):
        def f(self, t, y):
            return -y

        def jacobian(self, t, y):
            return -3 * torch.eye(2, dtype=y.dtype).expand(len(y), 2, 2)

    system = System(Decay(), state_spec(torch.ones(2, 2), True)[0])
    assert value_and_jacobian(system, torch.tensor(0.0), torch.ones(2, 2))[1][0, 0, 0] == -3
    module = torch.nn.Linear(2, 4)
    assert any(p is module.weight for p in ss.ODE(lambda t, y: y, jacobian=module).parameters())


JACOBIANS = {
    "one for all": (
        lambda t, y: torch.eye(2),
        r"returned shape \(2, 2\) for y of shape \(3, 2\); accepted is \(3, 2, 2\), .* component i .* expand it",
    ),
    "like y": (lambda t, y: y, r"returned shape \(3, 2\) for y of shape \(3, 2\); accepted is \(3, 2, 2\)"),
    "precise": (lambda t, y: torch.eye(2).double().expand(3, 2, 2), "returned dtype torch.float64.*torch.float32"),
    "nothing": (lambda t, y: None, "returned NoneType; accepted is a torch tensor"),
}


@pytest.mark.parametrize(("jacobian", "message"), JACOBIANS.values(), ids=JACOBIANS.keys())
def test_a_jacobian_of_the_wrong_shape_or_dtype_is_refused(jacobian, message):
    with pytest.raises(FunctionError, match=f"jacobian: {message}"):
        ss.solve(
            ss.ODE(lambda t, y: -y, jacobian=jacobian), torch.ones(3, 2), torch.tensor([0.0, 1.0]), method="rodas5p"
        )


def test_a_jacobian_that_cannot_be_called_is_refused():
    with pytest.raises(TypeError, match="jacobian: got Tensor; accepted is a function"):
        ss.ODE(lambda t, y: -y, jacobian=torch.eye(2))


# ---- failures


NAN = float("nan")


def bad(y):
    return y[:, :1] > 2.5


FAILURES = {
    "f": lambda p, t, y: -0.1 * p * y * torch.where(bad(y) & (t > 0.3), NAN, 1.0),
    "f at the start": lambda p, t, y: -p * torch.where(bad(y), NAN, y),
    # infinite at the start, where f is p
    "the Jacobian": lambda p, t, y: -p * y + p * torch.sqrt((3.0 - y).abs()) * bad(y),
}
WAYS = {
    "own": {},
    "shared": {"shared_steps": True},
    "fixed": {"dt": 0.1},
    "checkpoint": {"adjoint": "checkpoint"},
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("way", WAYS)
@each
def test_a_trajectory_that_fails_changes_neither_values_nor_gradients_of_the_others(name, way, failure):
    y0 = tensor([1.0, 0.5], [3.0, 1.0], [0.2, 0.3])

    def run(y0):
        p = torch.tensor(0.7, dtype=F64, requires_grad=True)
        y0 = y0.clone().requires_grad_()
        f = FAILURES[failure]
        ts = torch.linspace(0, 1, 3, dtype=F64)
        how = {"max_steps": 300} if "dt" not in WAYS[way] else {}
        sol = ss.solve(ss.ODE(lambda t, y: f(p, t, y)), y0, ts, method=name, on_failure="return", **how, **WAYS[way])
        return sol, *torch.autograd.grad((sol.ys[:, sol.success] ** 2).sum(), (p, y0))

    together, by_p, by_y = run(y0)
    assert together.status.tolist() == [Status.SUCCESS, Status.NONFINITE, Status.SUCCESS]
    alone, p_alone, y_alone = run(y0[[0, 2]])
    # on a shared clock the failing one has shortened the steps
    rtol = 1e-4 if way == "shared" else 1e-12
    torch.testing.assert_close(together.ys[:, [0, 2]], alone.ys, rtol=rtol, atol=1e-14)
    torch.testing.assert_close(by_p, p_alone, rtol=rtol, atol=0.0)
    torch.testing.assert_close(by_y[[0, 2]], y_alone, rtol=rtol, atol=1e-14)
    assert (by_y[1] == 0).all()


@pytest.mark.parametrize("n", [1, 2])
@each
def test_a_singular_matrix_makes_its_own_trajectory_nan_and_is_stepped_around(name, n):
    """M = 1 - gamma h lambda = 0 for the second trajectory."""
    h = 0.5
    rate = torch.tensor([-1.0, 1 / (tableau_of(name).gamma * h), -2.0], dtype=F64)[:, None]
    y = torch.ones(3, n, dtype=F64)
    step = one_step(name, lambda t, y: rate * y, y, h)
    assert step.state.y[1].isnan().all() or step.state.y[1].isinf().any() or (step.state.y[1].abs() > 1e12).any()
    good = one_step(name, lambda t, y: rate[[0, 2]] * y, y[[0, 2]], h)
    assert torch.equal(step.state.y[[0, 2]], good.state.y)
    sol = ss.solve(ss.ODE(lambda t, y: rate * y), y, tensor(0.0, h), dt=h, method=name, rtol=1e-6, atol=1e-6)
    exact = torch.exp(rate * h).expand(3, n)
    torch.testing.assert_close(sol.ys[-1], exact, rtol=1e-3, atol=0.0)
    assert sol.stats.rejected[1] > 0


def test_steps_that_leave_the_domain_of_f_are_taken_again_with_less():
    """sqrt(y) for y from 1 to 0: trial steps beyond its zero are NaN."""
    f = lambda t, y: -torch.sqrt(y)
    sol = ss.solve(ss.ODE(f), tensor([1.0], [4.0]), tensor(0.0, 1.9), method="rodas5p", dt=1.9, rtol=1e-8, atol=1e-8)
    exact = tensor([(1 - 0.95) ** 2], [(2 - 0.95) ** 2])
    torch.testing.assert_close(sol.ys[-1], exact, rtol=1e-4, atol=1e-7)
    assert sol.stats.rejected[0] > 0


# ---- gradients


@pytest.mark.parametrize("given", [False, True], ids=["", "given Jacobian"])
@pytest.mark.parametrize("n", [1, 2])
@each
def test_fixed_steps_pass_gradcheck_for_first_and_second_derivatives(name, n, given):
    """The Jacobian in M depends on y, p and t."""
    y0 = torch.tensor([[0.7, -0.4], [1.2, 0.3]], dtype=F64)[:, :n]
    ts = tensor(0.0, 0.4, 1.0)

    def end(y0, p):
        f = lambda t, y: p * torch.sin(t + y.flip(-1)) - 3 * y**3

        def jacobian(t, y):
            cross = torch.diag_embed(p * torch.cos(t + y.flip(-1))).flip(-1)
            return cross - torch.diag_embed(9 * y**2)

        return ss.solve(ss.ODE(f, jacobian=jacobian if given else None), y0, ts, dt=0.5, method=name).ys[1:]

    inputs = y0.clone().requires_grad_(), torch.tensor(0.8, dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(end, inputs)
    assert torch.autograd.gradgradcheck(end, inputs)


@pytest.mark.parametrize("way", [{"dt": 0.2}, {"rtol": 1e-5}, {"rtol": 1e-5, "shared_steps": True}], ids=str)
@each
def test_checkpointed_gradients_are_the_direct_ones(name, way):
    def gradients(adjoint):
        y0, mu = tensor([2.0, 0.0], [1.0, -0.5]).requires_grad_(), torch.tensor(20.0, dtype=F64, requires_grad=True)
        ys = ss.solve(ss.ODE(van_der_pol(mu)), y0, tensor(0.0, 0.5, 1.0), method=name, adjoint=adjoint, **way).ys
        return torch.autograd.grad(ys[1:].square().sum(), (y0, mu))

    for direct, checkpointed in zip(gradients("direct"), gradients("checkpoint"), strict=True):
        torch.testing.assert_close(checkpointed, direct, rtol=1e-11, atol=1e-12)


def test_gradients_of_a_stiff_solve_are_those_of_the_solution():
    """Robertson's, by finite differences of tight solves, of which each is a trajectory."""

    def end(rates, tolerance):
        a, b, c = rates.unbind(-1)

        def f(t, y):
            slow, back, fast = a * y[:, 0], b * y[:, 1] * y[:, 2], c * y[:, 1] ** 2
            return torch.stack([back - slow, slow - back - fast, fast], -1)

        y0 = tensor([1.0, 0.0, 0.0]).expand(len(rates), 3).clone()
        how = {"rtol": tolerance, "atol": 1e-6 * tolerance}
        return ss.solve(ss.ODE(f), y0, tensor(0.0, 100.0), method="rodas5p", **how).ys[-1, :, 2]

    rates = tensor([0.04, 1e4, 3e7])
    tracked = rates.clone().requires_grad_()
    (found,) = torch.autograd.grad(end(tracked, 1e-6).sum(), tracked)
    change = torch.diag(1e-3 * rates[0])
    with torch.no_grad():
        ahead, behind = end(torch.cat([rates + change, rates - change]), 1e-9).reshape(2, 3)
    torch.testing.assert_close(found[0], (ahead - behind) / (2e-3 * rates[0]), rtol=1e-4, atol=0.0)


# ---- compiled


@pytest.mark.compile
@pytest.mark.parametrize("given", [False, True], ids=["", "given Jacobian"])
@each
def test_a_step_stands_in_a_compiled_loop(name, given):
    y = tensor([0.7, -0.4], [1.2, 0.3], [0.1, 0.2])
    J = tensor([-30.0, 10.0], [1.0, -2.0])
    problem = ss.ODE(
        lambda t, y: torch.einsum("ij,bj->bi", J, y) + torch.cos(t),
        jacobian=(lambda t, y: J.expand(len(y), 2, 2)) if given else None,
    )
    t0 = tensor(0.1, 0.2, 0.3)[:, None]
    inc = Increments(t0, t0 + 0.2, torch.full_like(t0, 0.2))
    assert_steps_are_one_graph(METHODS["ode", name], System(problem, state_spec(y, True)[0]), y, inc)


@pytest.mark.compile
@pytest.mark.parametrize(
    ("name", "rtol"),
    [
        pytest.param("rosenbrock23", 1e-3, marks=pytest.mark.traced),
        pytest.param("rodas5p", 1e-6, marks=pytest.mark.traced),
    ],
)
def test_a_compiled_solve_is_the_eager_one(name, rtol):
    mu = tensor(1.0, 30.0, 1000.0)
    y0, ts = tensor([2.0, 0.0]).expand(3, 2).clone(), tensor(0.0, 1.0, 10.0)
    eager, compiled = (
        ss.solve(ss.ODE(van_der_pol(mu)), y0, ts, method=name, rtol=rtol, atol=rtol * 1e-2, compile=c)
        for c in (False, True)
    )
    assert torch.equal(eager.stats.steps, compiled.stats.steps)
    # rounding changes the error estimates, so the steps, a little
    torch.testing.assert_close(compiled.ys, eager.ys, rtol=1e-3 * rtol, atol=1e-3 * rtol)


@each
def test_compiled_gradients_are_refused(name):
    y0 = tensor([1.0, 2.0]).requires_grad_()
    with pytest.raises(ss.CompileError, match=f"True with method='{name}', where gradients.*compile=False"):
        ss.solve(ss.ODE(lambda t, y: -y), y0, tensor(0.0, 1.0), method=name, compile=True)
