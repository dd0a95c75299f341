"""The symplectic methods: their orders, and what they keep: direction of time, symplectic form, energy."""

import math
from itertools import pairwise, product

import pytest
import torch

import sdesolve as ss
from sdesolve.methods import METHODS, Increments, State, choose, names
from sdesolve.methods.symplectic import BLANES_MOAN4, SYMPLECTIC
from sdesolve.state import state_spec
from sdesolve.system import System
from tests.methods.one_graph import assert_steps_are_one_graph
from validation.order import fit_order

F64 = torch.float64
every = pytest.mark.parametrize("method", SYMPLECTIC, ids=lambda method: method.name)


def tensor(x):
    return torch.tensor(x, dtype=F64)


def pendulum():
    return ss.Hamiltonian(lambda q: -torch.cos(q).sum(-1))


def kepler():
    return ss.Hamiltonian(force=lambda q: -q / q.norm(dim=-1, keepdim=True) ** 3)


def relativistic():
    """K = sqrt(1 + |p|^2), so that V is not linear, with a potential that couples positions."""
    return ss.Hamiltonian(
        lambda q: 0.5 * (q * q).sum(-1) + torch.cos(q[..., 0] * q[..., 1]),
        velocity=lambda p: p / (1 + (p * p).sum(-1, keepdim=True)).sqrt(),
    )


def orbit(eccentricity):
    """Of Kepler's problem with period 2 pi, from the perihelion."""
    e = eccentricity
    return tensor([[1 - e, 0.0]]), tensor([[0.0, math.sqrt((1 + e) / (1 - e))]])


def ends(problem, start, span, dt, method):
    q, p = ss.solve(problem, start, tensor(span), dt=dt, method=method).ys
    return torch.cat([q[-1], p[-1]], -1)


def stepped(problem, q, p, h, method):
    spec, y = state_spec((q, p), problem.batched)
    system, t = System(problem, spec), tensor(0.0)
    inc = Increments(t, t + h, tensor(h))
    return method.step(system, State(y, method.init(system, t, y)), inc).state


# ---- coefficients


def series(kicks, drifts, degree):
    """The composition's series in the words of A (drift) and B (kick), which do not commute."""
    found = {"": 1.0}

    def times(letter, c):
        out = {}
        for word, value in found.items():
            for n in range(degree + 1 - len(word)):
                longer = word + letter * n
                out[longer] = out.get(longer, 0.0) + value * c**n / math.factorial(n)
        return out

    for b, a in zip(kicks, (*drifts, 0.0), strict=True):
        found = times("B", b)
        found = times("A", a)
    return found


def defect(kicks, drifts, degree):
    """Norm of what is wrong at a degree: exp(A + B) has 1/n! at every word of n letters."""
    found = series(kicks, drifts, degree)
    words = map("".join, product("AB", repeat=degree))
    return math.sqrt(sum((found.get(word, 0.0) - 1 / math.factorial(degree)) ** 2 for word in words))


@every
def test_a_composition_is_the_exponential_of_the_sum_up_to_its_order(method):
    for degree in range(1, method.order + 1):
        assert defect(method.kicks, method.drifts, degree) < 1e-14
    assert defect(method.kicks, method.drifts, method.order + 1) > 1e-4
    assert method.kicks == method.kicks[::-1] and method.drifts == method.drifts[::-1]


def leapfrogs(*lengths):
    """Kicks and drifts of leapfrogs of these lengths, one behind the other."""
    between = [(a + b) / 2 for a, b in pairwise(lengths)]
    return [lengths[0] / 2, *between, lengths[-1] / 2], list(lengths)


def test_the_error_at_the_same_number_of_forces_is_the_least_of_the_known_compositions():
    """Of Forest & Ruth's three and Suzuki's five leapfrogs, and of McLachlan's (1995) with five forces."""
    cube, fourth, root = 1 / (2 - 2 ** (1 / 3)), 1 / (4 - 4 ** (1 / 3)), math.sqrt(19)
    a, b = ((14 - root) / 108, (20 - 7 * root) / 108), (0.4, -0.1)
    a, b = (*a, 0.5 - sum(a)), (*b, 1 - 2 * sum(b), *b[::-1])
    others = {
        25: leapfrogs(cube, 1 - 2 * cube, cube),
        9.5: leapfrogs(fourth, fourth, 1 - 4 * fourth, fourth, fourth),
        1.45: ([*a, *a[::-1]], list(b)),
    }
    cost = lambda kicks, drifts: defect(kicks, drifts, 5) * len(drifts) ** 4
    least = cost(BLANES_MOAN4.kicks, BLANES_MOAN4.drifts)
    for times, other in others.items():
        assert max(defect(*other, degree) for degree in range(1, 5)) < 1e-14
        assert cost(*other) / least == pytest.approx(times, rel=0.1)


# ---- order


@every
@pytest.mark.parametrize("backwards", [False, True], ids=["", "backwards"])
def test_error_falls_with_the_order_on_an_orbit_of_kepler(method, backwards):
    """A whole period from the perihelion: it ends where it began."""
    start, span = orbit(0.3), [0.0, 2 * math.pi]
    steps = [2 * math.pi / n for n in (128, 192, 256, 384, 512)]
    found = [ends(kepler(), start, span[::-1] if backwards else span, dt, method) for dt in steps]
    errors = [float((end - torch.cat(start, -1)).norm()) for end in found]
    assert abs(fit_order(steps, errors).order - method.order) < 0.2, errors


@every
def test_error_falls_with_the_order_where_the_velocity_is_not_linear_in_the_momenta(method):
    start = tensor([[0.7, -0.4]]), tensor([[0.5, 1.1]])
    exact = ends(relativistic(), start, [0.0, 2.0], 0.01, "dopri5")
    steps = [0.2 * 2 ** (-k / 2) for k in range(5)]
    errors = [float((ends(relativistic(), start, [0.0, 2.0], dt, method) - exact).norm()) for dt in steps]
    assert abs(fit_order(steps, errors).order - method.order) < 0.2, errors


def test_a_step_of_leapfrog_is_that_of_stoermer_and_verlet():
    """q_(n+1) - 2 q_n + q_(n-1) = h^2 F(q_n)."""
    start, dt = (tensor([[1.0]]), tensor([[0.3]])), 0.1
    q, p = ss.solve(pendulum(), start, dt * torch.arange(6, dtype=F64), dt=dt).ys
    assert torch.allclose(q[2:] - 2 * q[1:-1] + q[:-2], -(dt**2) * torch.sin(q[1:-1]), rtol=0, atol=1e-15)
    assert torch.allclose(p[1:-1], (q[2:] - q[:-2]) / (2 * dt), rtol=1e-13)


# ---- what is kept


def returned(problem, method):
    """How far from its start a solve to 5 and back ends."""
    start = y = orbit(0.5)
    for span in ([0.0, 5.0], [5.0, 0.0]):
        y = tuple(z[-1] for z in ss.solve(problem, y, tensor(span), dt=0.05, method=method).ys)
    return max(float((a - b).abs().max()) for a, b in zip(y, start, strict=True))


@every
@pytest.mark.parametrize("problem", [pendulum(), kepler(), relativistic()], ids=["pendulum", "kepler", "relativistic"])
def test_steps_back_undo_the_steps_forth_to_rounding(method, problem):
    assert returned(problem, method) < 1e-12


def test_steps_back_of_a_method_that_is_not_symmetric_do_not_undo_those_forth():
    assert returned(kepler(), "rk4") > 1e-7


@every
@pytest.mark.parametrize("problem", [pendulum(), kepler(), relativistic()], ids=["pendulum", "kepler", "relativistic"])
@pytest.mark.parametrize("h", [0.3, -0.1])
def test_the_jacobian_of_a_step_is_symplectic(method, problem, h):
    """J^T Omega J = Omega."""
    n = 2
    y = torch.randn(2 * n, generator=torch.Generator().manual_seed(3), dtype=F64)
    after = lambda y, method=method: stepped(problem, y[None, :n], y[None, n:], h, method).y[0]
    J = torch.func.jacrev(after)(y)
    one, none = torch.eye(n, dtype=F64), torch.zeros(n, n, dtype=F64)
    omega = torch.cat([torch.cat([none, one], 1), torch.cat([-one, none], 1)])
    assert (J.T @ omega @ J - omega).abs().max() < 1e-12 * J.norm() ** 2
    J = torch.func.jacrev(lambda y: after(y, METHODS["ode", "rk4"]))(y)
    assert (J.T @ omega @ J - omega).abs().max() > 1e-8


@every
def test_angular_momentum_is_kept(method):
    """A quadratic invariant of both flows."""
    q, p = ss.solve(kepler(), orbit(0.6), torch.linspace(0, 50, 11, dtype=F64), dt=0.05, method=method).ys
    momentum = q[..., 0] * p[..., 1] - q[..., 1] * p[..., 0]
    assert (momentum - momentum[0]).abs().max() < 1e-12


def pull(q):
    """On a pendulum, and on a planet beside it."""
    return torch.cat([-torch.sin(q[:, :1]), -q[:, 1:] / q[:, 1:].norm(dim=-1, keepdim=True) ** 3], -1)


def energies(method, dt, steps, every, compile=False):
    """Of the pendulum and of the planet, every so many steps: (1 + steps / every, 2)."""
    q, p = orbit(0.3)
    start = torch.cat([tensor([[2.0]]), q], -1), torch.cat([tensor([[0.0]]), p], -1)
    ts = dt * torch.arange(0, steps + 1, every, dtype=F64)
    with torch.no_grad():
        sol = ss.solve(ss.Hamiltonian(force=pull), start, ts, dt=dt, method=method, compile=compile)
    q, p = (z[:, 0] for z in sol.ys)
    swing = 0.5 * p[:, 0] ** 2 - torch.cos(q[:, 0])
    return torch.stack([swing, 0.5 * (p[:, 1:] ** 2).sum(-1) - 1 / q[:, 1:].norm(dim=-1)], -1)


def drift(energy):
    """Of its mean, from the first tenth of the time to the last one."""
    part = len(energy) // 10
    return (energy[-part:].mean(0) - energy[1 : part + 1].mean(0)).abs()


@pytest.mark.slow
@pytest.mark.compile
@pytest.mark.parametrize(("method", "dt"), [("leapfrog", 0.1), ("blanes_moan4", 0.4)])
def test_the_energy_swings_over_a_hundred_thousand_steps_and_does_not_drift(method, dt):
    energy = energies(method, dt, 100_000, 20, compile=True)
    early = (energy[: len(energy) // 10] - energy[0]).abs().amax(0)
    swing = (energy - energy[0]).abs().amax(0)
    # the largest error of the first tenth is that of all
    assert (swing < 1.1 * early).all() and (swing < 0.02).all()
    assert (drift(energy) < 0.01 * swing).all()


def test_the_energy_drifts_with_rk4_where_it_does_not_with_symplectic_methods_of_its_cost():
    """Over 500 units of time, at four forces in 0.2."""
    lost = drift(energies("rk4", 0.2, 2_500, 5))
    for method, dt in (("leapfrog", 0.05), ("blanes_moan4", 0.3)):
        kept = drift(energies(method, dt, round(500 / dt), 5))
        assert (20 * kept < lost).all()


# ---- gradients, costs, compiled code


@every
def test_gradients_are_those_of_finite_differences(method):
    def end(q, p, k, m):
        problem = ss.Hamiltonian(lambda q: (k * q**4 / 4 + q * q).sum(-1), velocity=lambda p: p / m)
        return ss.solve(problem, (q, p), tensor([0.0, 0.5]), dt=0.125, method=method).ys

    q, p = torch.randn(2, 2, 2, generator=torch.Generator().manual_seed(0), dtype=F64).unbind()
    inputs = [x.clone().requires_grad_() for x in (q, p, tensor(1.3), tensor([0.7, 1.9]))]
    assert torch.autograd.gradcheck(end, inputs)


@every
def test_evaluations_are_the_calls_of_the_force(method):
    calls = {"force": 0, "velocity": 0}

    def counted(name, function):
        def call(z):
            calls[name] += 1
            return function(z)

        return call

    problem = ss.Hamiltonian(force=counted("force", lambda q: -q), velocity=counted("velocity", lambda p: 2 * p))
    start = torch.ones(3, 2), torch.zeros(3, 2)
    for dense in (False, True):
        calls["force"] = 0
        sol = ss.solve(problem, start, torch.tensor([0.0, 0.5, 1.0]), dt=0.1, method=method, dense=dense)
        assert calls["force"] == 1 + 10 * {"leapfrog": 1, "blanes_moan4": 6}[method.name]
        assert sol.stats.drift_evaluations.tolist() == [calls["force"]] * 3


@every
def test_dense_error_falls_with_the_order_of_the_method(method):
    """Of order 4 at most, that of the cubic Hermite interpolant."""
    between, ts = torch.linspace(0, 2 * math.pi, 101, dtype=F64), tensor([0.0, 2 * math.pi])
    exact = torch.cat(ss.solve(kepler(), orbit(0.2), between, dt=0.1, method="dop853").ys, -1)
    steps, errors = [2 * math.pi / n for n in (64, 96, 128, 192)], []
    for dt in steps:
        found = ss.solve(kepler(), orbit(0.2), ts, dt=dt, method=method, dense=True)(between)
        errors.append(float((torch.cat(found, -1) - exact).norm(dim=-1).max()))
    assert abs(fit_order(steps, errors).order - min(method.order, 4)) < 0.2, errors


@every
def test_within_a_step_the_dense_error_is_of_the_local_order(method):
    """h^(p + 1), or h^4 by the interpolant."""
    steps, errors = [2.0**-k for k in range(4, 8)], []
    for dt in steps:
        times = torch.linspace(0, dt, 9, dtype=F64)
        exact = torch.cat(ss.solve(kepler(), orbit(0.2), times, dt=dt / 8, method="dop853").ys, -1)
        found = ss.solve(kepler(), orbit(0.2), times[[0, -1]], dt=dt, method=method, dense=True)(times)
        errors.append(float((torch.cat(found, -1) - exact).norm(dim=-1).max()))
    assert abs(fit_order(steps, errors).order - min(method.order + 1, 4)) < 0.2, errors


@pytest.mark.parametrize(("method", "given"), [("leapfrog", "potential"), ("blanes_moan4", "force")])
def test_a_compiled_loop_takes_the_steps_as_one_graph(method, given):
    functions = {"potential": lambda q: (q**4 / 4).sum(-1), "force": lambda q: -(q**3)}
    scale = tensor([0.5, 1.0])
    problem = ss.Hamiltonian(**{given: functions[given]}, velocity=lambda p: p / scale)
    spec, y = state_spec(tuple(torch.randn(2, 4, 2, generator=torch.Generator().manual_seed(2), dtype=F64)), True)
    inc = Increments(tensor(0.4), tensor(0.5), tensor(0.1))
    assert_steps_are_one_graph(METHODS["ode", method], System(problem, spec), y, inc)


@every
def test_a_step_of_length_zero_returns_the_state(method):
    q, p = torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(0), dtype=F64).unbind()
    assert torch.equal(stepped(pendulum(), q, p, 0.0, method).y, torch.cat([q, p], -1))


# ---- which method for which problem


def test_the_default_is_leapfrog_for_fixed_and_tsit5_for_adaptive_steps():
    start, ts = orbit(0.1), tensor([0.0, 0.1])
    assert ss.solve(kepler(), start, ts, dt=0.01).stats.method == "leapfrog"
    for how in ({}, {"rtol": 1e-4}, {"atol": 1e-4, "dt": 0.01}, {"controller": ss.PID(1e-3, 1e-3)}):
        assert ss.solve(kepler(), start, ts, **how).stats.method == "tsit5"
    system = System(kepler(), state_spec(start, True)[0])
    assert choose(system, None).name == "leapfrog" and choose(system, None, adaptive=True).name == "tsit5"
    for name in (*ss.methods.made_for("Hamiltonian"), "rk4", "tsit5", "reversible_heun"):
        assert choose(system, name).name == name


@every
def test_symplectic_methods_are_refused_for_other_problems_and_for_tolerances(method):
    ode, y = ss.ODE(lambda t, y: -y), torch.ones(2, 1)
    for given in (method, method.name):
        with pytest.raises(ValueError, match=r"ss\.Hamiltonian"):
            ss.solve(ode, y, tensor([0.0, 1.0]), dt=0.1, method=given)
    assert method.name not in names("ode") and method.name in names("ode", "Hamiltonian")
    with pytest.raises(ValueError, match="no error estimate"):
        ss.solve(pendulum(), (y, y), tensor([0.0, 1.0]), rtol=1e-3, method=method)
    with pytest.raises(ValueError, match="dt: got neither"):
        ss.solve(pendulum(), (y, y), tensor([0.0, 1.0]), method=method)
