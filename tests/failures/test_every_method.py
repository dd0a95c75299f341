"""Failures of every ODE method: the status of each trajectory, what was solved before, the time and the reason."""

import pytest
import torch

import sdesolve as ss
from sdesolve import Status
from sdesolve.methods import METHODS
from sdesolve.methods.esdirk import ESDIRK
from tests.methods.every_ode import ADAPTIVE, CASES, joined

F64, NAN = torch.float64, float("nan")
#: what is known of a problem makes no difference here
KINDS = [case for case in CASES if "known" not in case[0]]
each_adaptive = pytest.mark.parametrize(("kind", "name"), [case for case in KINDS if case in ADAPTIVE])
NEWTON = pytest.mark.parametrize("name", [m.name for m in METHODS.values() if isinstance(m, ESDIRK)])


def tensor(*values):
    return torch.tensor(values, dtype=F64)


def posed(kind, f):
    """dy/dt = f(t, y) as a problem of a kind."""
    makers = {
        "ODE": lambda: ss.ODE(f),
        "Semilinear": lambda: ss.Semilinear(tensor(0.0), f),
        "SplitODE": lambda: ss.SplitODE(f, lambda t, y: 0 * y),
    }
    return makers[kind]()


def climbing(kind, y0):
    """y grows by 1 in a unit of time, as far as 1.55, where f is NaN."""
    if kind == "Hamiltonian":
        force = lambda q: torch.where(q[:, :1] > 1.55, NAN, torch.zeros_like(q))
        return ss.Hamiltonian(force=force), (y0, torch.ones_like(y0))
    return posed(kind, lambda t, y: torch.where(y[:, :1] > 1.55, NAN, torch.ones_like(y))), y0


TS = torch.linspace(0, 1, 6, dtype=F64)


WAYS = [(*case, how) for case in KINDS for how in ("fixed", "adaptive") if how == "fixed" or case in ADAPTIVE]


@pytest.mark.parametrize(("kind", "name", "how"), WAYS)
def test_nan_fails_its_trajectory_alone_with_time_reason_and_what_was_solved(kind, name, how):
    y0 = tensor([0.0, -0.5], [1.0, 0.2], [-1.0, 0.0])
    problem, start = climbing(kind, y0)
    options = {"dt": 0.1} if how == "fixed" else {"rtol": 1e-4}
    with pytest.raises(ss.SolveError) as caught:
        ss.solve(problem, start, TS, method=name, **options)
    error, solution = caught.value, caught.value.solution
    assert error.reason is Status.NONFINITE and error.paths == [1]
    # a stage in the middle of a step to 0.6 sees no NaN, nor does Euler's method of one to 0.6
    assert 0.4 <= error.time <= 0.61
    assert "became NaN or infinite" in str(error)
    assert f"t = {error.time:.6g}" in str(error)
    assert solution.status.tolist() == [Status.SUCCESS, error.reason, Status.SUCCESS]
    ys = joined(solution.ys)[..., :2]
    exact = y0 + TS[:, None, None]
    torch.testing.assert_close(ys[:, [0, 2]], exact[:, [0, 2]], rtol=0, atol=1e-10)
    torch.testing.assert_close(ys[:3, 1], exact[:3, 1], rtol=0, atol=1e-10)
    assert ys[4:, 1].isnan().all()


@pytest.mark.parametrize("name", [name for kind, name in KINDS if kind == "ODE" and name != "auto"])
def test_states_without_elements_are_solved_or_refused_with_words(name):
    solve = lambda: ss.solve(ss.ODE(lambda t, y: -y), torch.zeros(3, 0), TS, method=name, dt=0.1)
    if METHODS["ode", name].may_fail or name.startswith("ros") or name == "rodas5p":
        with pytest.raises(ValueError, match=r"y0: got shape \(3, 0\).*An explicit method takes it"):
            solve()
    else:
        assert solve().ys.shape == (6, 3, 0)


@each_adaptive
def test_a_blow_up_is_a_step_underflow_at_its_time(kind, name):
    """1 / (1 - t), and beside it 1 / (10 - t); of the Hamiltonian q'' = 6 q^2, 1 / (1 - t)^2 and 0."""
    if kind == "Hamiltonian":
        problem = ss.Hamiltonian(force=lambda q: 6 * q * q)
        start = tensor([1.0], [0.0]).float(), tensor([2.0], [0.0]).float()
    else:
        problem, start = posed(kind, lambda t, y: y * y), tensor([1.0], [0.1]).float()
    with pytest.raises(ss.SolveError) as caught:
        ss.solve(problem, start, tensor(0.0, 0.5, 2.0), method=name, rtol=1e-3, atol=1e-5)
    error, ys = caught.value, joined(caught.value.solution.ys)[..., :1]
    # the last steps, too short for the clock, are those whose equations have no solution
    newton = METHODS["ode", name].may_fail and error.reason is Status.NOT_CONVERGED
    assert (newton or error.reason is Status.STEP_UNDERFLOW) and error.paths == [0]
    assert error.reason.text in str(error)
    assert error.time == pytest.approx(1.0, abs=0.1 / METHODS["ode", name].order)
    first, other = (4.0, 0.0) if kind == "Hamiltonian" else (2.0, 0.125)
    assert ys[1, 0].item() == pytest.approx(first, rel=0.1) and ys[2, 0].isnan().all()
    assert ys[2, 1].item() == pytest.approx(other, rel=0.1)


@each_adaptive
def test_too_many_steps_fail_their_trajectory_alone(kind, name):
    """More of them are taken where rates are large."""
    rate = tensor([1.0], [20.0])
    if kind == "Hamiltonian":
        problem, start = ss.Hamiltonian(force=lambda q: -rate * rate * q), (tensor([0.5], [0.2]), tensor([0.0], [0.0]))
    else:
        problem, start = posed(kind, lambda t, y: rate * torch.cos(rate * t + y)), tensor([0.5], [0.2])
    solve = lambda **how: ss.solve(
        problem, start, tensor(0.0, 1.0), method=name, rtol=1e-3, atol=1e-3, on_failure="return", **how
    )
    needed = solve().stats.steps
    assert needed[1] > needed[0]
    solution = solve(max_steps=int(needed[1]) - 1)
    assert solution.status.tolist() == [Status.SUCCESS, Status.MAX_STEPS]
    assert solution.stats.steps.tolist() == [int(needed[0]), int(needed[1]) - 1]
    assert joined(solution.ys)[-1, 0].isfinite().all() and joined(solution.ys)[-1, 1].isnan().all()


@NEWTON
def test_a_step_that_newton_s_method_cannot_take_fails_its_trajectory_alone(name):
    """y' = exp(y) has no implicit step of length 1 from y = 1."""
    y0, ts = tensor([-3.0], [1.0], [-2.0]), tensor(0.0, 1.0, 2.0)
    with pytest.raises(ss.SolveError, match=r"did not converge. Take smaller steps, or more iterations") as caught:
        ss.solve(ss.ODE(lambda t, y: torch.exp(y)), y0, ts, dt=1.0, method=name)
    error, solution = caught.value, caught.value.solution
    assert error.reason is Status.NOT_CONVERGED and error.paths == [1] and error.time == 0
    assert solution.status.tolist() == [Status.SUCCESS, Status.NOT_CONVERGED, Status.SUCCESS]
    alone = ss.solve(ss.ODE(lambda t, y: torch.exp(y)), y0[[0, 2]], ts, dt=1.0, method=name)
    assert torch.equal(solution.ys[:, [0, 2]], alone.ys)
    assert torch.equal(solution.ys[0, 1], y0[1]) and solution.ys[1:, 1].isnan().all()


@NEWTON
def test_adaptive_steps_shrink_where_newton_s_method_does_not_converge(name):
    # blows up at exp(-1) = 0.368: the first step, of the whole span, has no solution
    f = lambda t, y: torch.exp(y)
    sol = ss.solve(ss.ODE(f), tensor([1.0]), tensor(0.0, 0.3), dt=0.3, rtol=1e-5, atol=1e-7, method=name)
    exact = -torch.log(torch.exp(tensor(-1.0)) - 0.3)
    assert int(sol.stats.rejected) > 0
    # near the end errors grow a hundredfold
    assert abs(sol.ys[-1].item() - exact.item()) < (0.02 if METHODS["ode", name].order == 1 else 1e-3)
