"""Gradients of compiled solves are those of the eager ones: the same steps, differentiated."""

import gc
import weakref

import pytest
import torch

import sdesolve as ss
from sdesolve.solution import Status
from tests.adjoint.test_checkpoint import CASES
from tests.adjoint.test_checkpoint import gradients as gradients_of

pytestmark = pytest.mark.compile

F64 = torch.float64
TS = torch.tensor([0.0, 0.4, 1.0], dtype=F64)


class Problem:
    """Networks and a number of their own, and problems that read them out of closures."""

    def __init__(self):
        torch.manual_seed(0)
        self.net = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).double()
        self.theta = torch.tensor(0.7, dtype=F64, requires_grad=True)
        self.parameters = [*self.net.parameters(), self.theta]

    def ode(self):
        return ss.ODE(lambda t, y: self.net(y) * torch.cos(self.theta * t))

    def sde(self):
        return ss.SDE(lambda t, y: self.net(y), lambda t, y: 0.3 * self.theta * torch.cos(y))


def gradients(problem, parameters, y0, ts, **how):
    """ys, and the gradients of a weighted sum of all of them by y0 and the parameters."""
    y0 = y0.clone().requires_grad_()
    ys = ss.solve(problem, y0, ts, **how).ys
    weights = torch.linspace(0.3, 1.7, ys.numel(), dtype=F64).reshape(ys.shape)
    return ys, *torch.autograd.grad((ys * weights).nan_to_num().sum(), [y0, *parameters])


def assert_compiled_is_eager(problem, parameters, y0, ts, **how):
    eager, compiled = (gradients(problem, parameters, y0, ts, compile=c, **how) for c in (False, True))
    for a, b in zip(compiled, eager, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize(
    ("adjoint", "how"),
    [
        ("direct", {"dt": 0.1, "method": "bosh3"}),
        pytest.param("direct", {"rtol": 1e-5, "atol": 1e-5}, marks=pytest.mark.traced),
        pytest.param("backsolve", {"rtol": 1e-5, "atol": 1e-5, "method": "bosh3"}, marks=pytest.mark.traced),
    ],
)
def test_gradients_of_a_compiled_ode_solve_are_the_eager_ones(adjoint, how):
    case = Problem()
    for batch in (4, 3) if adjoint == "direct" else (4,):  # backsolve compiles each batch
        y0 = torch.randn(batch, 2, dtype=F64, generator=torch.Generator().manual_seed(batch))
        assert_compiled_is_eager(case.ode(), case.parameters, y0, TS, adjoint=adjoint, **how)


@pytest.mark.traced
def test_gradients_pass_a_jump_and_output_times_of_each_trajectory():
    theta = torch.tensor(0.7, dtype=F64, requires_grad=True)
    left, right = torch.tensor(1.0, dtype=F64), torch.tensor(-2.0, dtype=F64)
    ode = ss.ODE(lambda t, y: theta * torch.where(t < 0.5, left, right) * y)
    y0 = torch.tensor([[1.0], [0.3]], dtype=F64)
    jumps = ss.PID(1e-5, 1e-5, jumps=[0.5])
    assert_compiled_is_eager(ode, [theta], y0, TS, controller=jumps, method="bosh3")
    own = torch.tensor([[0.0, 1.0], [0.2, 0.4]], dtype=F64)
    assert_compiled_is_eager(ode, [theta], y0, own, rtol=1e-4, method="bosh3")


def test_gradients_of_compiled_sde_solves_are_the_eager_ones():
    case = Problem()
    y0 = torch.randn(3, 2, dtype=F64, generator=torch.Generator().manual_seed(1))
    # steps off the grid and on it, in one solve
    ts = torch.tensor([0.0, 0.33, 0.43, 1.03], dtype=F64)
    assert_compiled_is_eager(case.sde(), case.parameters, y0, ts, dt=0.1, seed=1, method="euler_maruyama")
    path = ss.BrownianPath(5, (3, 2), cell=0.1, dtype=F64)
    assert_compiled_is_eager(case.sde(), case.parameters, y0, TS, dt=0.1, brownian=path, method="milstein")


@pytest.mark.traced
def test_gradients_of_compiled_adaptive_sde_steps_are_the_eager_ones():
    case = Problem()
    y0 = torch.randn(3, 2, dtype=F64, generator=torch.Generator().manual_seed(1))
    assert_compiled_is_eager(case.sde(), case.parameters, y0, TS, rtol=1e-2, atol=1e-2, seed=1, method="sriw1")


@pytest.mark.traced
def test_a_trajectory_that_fails_leaves_the_gradients_of_others_alone():
    theta = torch.tensor(1.0, dtype=F64, requires_grad=True)
    ode, ts = ss.ODE(lambda t, y: theta * y * y), torch.tensor([0.0, 1.0], dtype=F64)  # blows up at 1 / y0
    y0 = torch.tensor([[0.5], [2.0], [0.25]], dtype=F64)
    for how in ({"dt": 0.05}, {"rtol": 1e-6}):
        how |= {"compile": True, "on_failure": "return"}
        _, of_y0, of_theta = gradients(ode, [theta], y0, ts, **how)
        start = y0.clone().requires_grad_()
        sol = ss.solve(ode, start, ts, **how)
        assert sol.status.tolist()[::2] == [Status.SUCCESS] * 2
        assert sol.status[1] != Status.SUCCESS
        assert of_y0[1] == 0
        good = ss.solve(ode, start[[0, 2]], ts, **{**how, "compile": False}).ys
        weights = torch.linspace(0.3, 1.7, 6, dtype=F64).reshape(2, 3, 1)[:, [0, 2]]
        expected = torch.autograd.grad((good * weights).sum(), [start, theta])
        torch.testing.assert_close(of_y0[[0, 2]], expected[0][[0, 2]], rtol=1e-9, atol=0)
        torch.testing.assert_close(of_theta, expected[1], rtol=1e-9, atol=0)


def test_gradients_of_compiled_gradients_are_refused():
    theta = torch.tensor(1.0, requires_grad=True)
    ys = ss.solve(ss.ODE(lambda t, y: theta * y), torch.ones(2, 1), torch.tensor([0.0, 1.0]), dt=0.5, compile=True).ys
    with pytest.raises(ss.SolveError, match=r"create_graph=True.*compile"):
        torch.autograd.grad(ys.sum(), theta, create_graph=True)


@pytest.mark.traced
def test_gradients_are_of_what_the_closures_held_when_the_problem_was_solved():
    for how in ({"dt": 0.25}, {"rtol": 1e-4}):

        def of(compile, how=how):
            thetas = [torch.tensor(x, dtype=F64, requires_grad=True) for x in (0.7, 0.3)]
            total = torch.zeros((), dtype=F64)
            for theta in thetas:
                ode = ss.ODE(lambda t, y: -theta * y)  # noqa: B023 - rebound on purpose
                total = total + ss.solve(ode, torch.ones(2, 1, dtype=F64), TS, compile=compile, **how).ys.sum()
            return torch.autograd.grad(total, thetas)

        torch.testing.assert_close(of(True), of(False), rtol=1e-9, atol=0)


@pytest.mark.traced
def test_what_is_changed_in_place_before_the_gradients_is_noticed():
    theta, k = torch.tensor(0.7, dtype=F64, requires_grad=True), torch.tensor(1.0, dtype=F64)
    ode, y0 = ss.ODE(lambda t, y: -theta * k * y), torch.ones(2, 1, dtype=F64)

    def solved(compile=True):
        return ss.solve(ode, y0, TS, dt=0.25, compile=compile).ys

    tripled = [torch.autograd.grad(solved(compile).mul_(3).sum(), theta) for compile in (True, False)]
    torch.testing.assert_close(*tripled, rtol=1e-10, atol=0)
    ys = solved()
    k.mul_(3)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(ys.sum(), theta)


@pytest.mark.traced
def test_a_recorded_solve_is_freed_with_its_solution():
    theta = torch.tensor(0.7, requires_grad=True)
    ys = ss.solve(ss.ODE(lambda t, y: -theta * y), torch.ones(2, 1), TS.float(), dt=0.25, compile=True).ys
    recorded = weakref.ref(ys.grad_fn.run)
    gc.disable()
    try:
        ys.sum().backward()
        del ys
        assert recorded() is None
    finally:
        gc.enable()


@pytest.mark.traced
def test_states_without_dimensions_and_times_of_each_trajectory():
    y0 = torch.tensor(1.3, dtype=F64)
    for how in ({"dt": 0.25, "method": "bosh3"}, {"rtol": 1e-4, "method": "bosh3"}):
        assert_compiled_is_eager(ss.ODE(lambda t, y: -y * t, batched=False), [], y0, TS, **how)
    theta = torch.tensor(0.7, dtype=F64, requires_grad=True)
    own = ss.ODE(lambda t, y: -theta * y * t[:, :1])  # a clock of its own for each: t has a batch
    assert_compiled_is_eager(own, [theta], torch.ones(2, 1, dtype=F64) * y0, TS, rtol=1e-4, method="bosh3")


def test_compiled_gradients_of_a_vectorized_problem_are_refused():
    ode = ss.ODE(lambda t, y: -y, vectorize=True)
    with pytest.raises(ss.CompileError, match="vectorize=True"):
        ss.solve(ode, torch.ones(2, 1, requires_grad=True), TS.float(), dt=0.5, compile=True)


@pytest.mark.traced
def test_compiled_checkpoints_give_the_gradients_of_direct_whatever_their_memory():
    """A failed trajectory is held apart; second derivatives are refused."""
    ts = torch.tensor([0.0, 0.37, 1.0], dtype=F64)
    rate = torch.tensor([[0.3, 1.0], [-1.2, 0.1]], dtype=F64, requires_grad=True)
    f = lambda t, y: torch.tanh((rate * y[:, None, :]).sum(-1)) + torch.cos(t) + 1e-4 * y**9

    def run(adjoint, rows, **how):
        y0 = torch.tensor([[0.5, 0.2], [40.0, 1.0], [0.7, -0.3]], dtype=F64)[rows].requires_grad_()
        sol = ss.solve(ss.ODE(f), y0, ts, method="heun", dt=0.03, adjoint=adjoint, on_failure="return", **how)
        good = sol.status == Status.SUCCESS
        assert good.tolist() == [row != 1 for row in rows]
        ys = sol.ys[:, good]
        return ys, torch.autograd.grad(ys.sin().sum(), (y0, rate))

    ys, (wanted_y, wanted) = run("direct", [0, 2])
    for steps in (None, 1, 2, 7, 1000):
        same, (found_y, found) = run(ss.Checkpoint(steps), [0, 1, 2], compile=True)
        torch.testing.assert_close(same, ys, rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(found_y[[0, 2]], wanted_y, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
        assert (found_y[1] == 0).all()
    y0 = torch.full((3, 2), 0.5, dtype=F64, requires_grad=True)
    ys = ss.solve(ss.ODE(f), y0, ts, method="heun", dt=0.03, adjoint="checkpoint", compile=True).ys
    with pytest.raises(ss.SolveError, match="'checkpoint' with compile=True was asked for gradients of its gradients"):
        torch.autograd.grad(ys.sum(), rate, create_graph=True)


@pytest.mark.traced
def test_compiled_checkpoints_of_an_sde_draw_its_noise_again():
    make, ts, how = CASES["sde, diagonal"]
    how = how | {"method": "euler_maruyama"}
    ys, wanted = gradients_of(make, ts, how, "direct")
    for steps in (None, 3):
        same, found = gradients_of(make, ts, how | {"compile": True}, ss.Checkpoint(steps))
        torch.testing.assert_close(same, ys, rtol=1e-13, atol=1e-13)
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


BACK = {
    "reversible, general noise off the grid": ("general", "reversible", {"dt": 0.03, "seed": 2}),
    "reversible bosh3": ("ode", ss.Reversible(0.9), {"dt": 0.05, "method": "bosh3"}),
    "backsolve, off the grid": ("diagonal", "backsolve", {"dt": 0.03, "seed": 2, "method": "heun"}),
    "backsolve, additive noise": ("additive", "backsolve", {"dt": 0.05, "seed": 1, "method": "euler_maruyama"}),
}


#: for one of them code is made as well
MADE = ("reversible bosh3",)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[] if case in MADE else pytest.mark.traced) for case in BACK]
)
def test_compiled_ways_back_without_records_are_the_eager_ones(case):
    """Along paths of one seed with outputs on the way, and with a trajectory that fails."""
    kind, adjoint, how = BACK[case]
    rate = torch.tensor([[0.3, 1.0], [-1.2, 0.1]], dtype=F64, requires_grad=True)
    size = torch.tensor(0.3, dtype=F64, requires_grad=True)
    f = lambda t, y: torch.tanh((rate * y[:, None, :]).sum(-1)) + torch.cos(t) + 1e-6 * y**9
    g = {
        "diagonal": lambda t, y: size * torch.cos(y),
        "general": lambda t, y: size * torch.stack([torch.cos(y), y.flip(-1)], -1),
        "additive": lambda t, y: size * torch.cos(t) * torch.ones_like(y),
    }
    if kind == "ode":
        problem = ss.ODE(f)
    else:
        noise, additive = ("diagonal", True) if kind == "additive" else (kind, False)
        problem = ss.SDE(f, g[kind], noise=noise, additive=additive, calculus="ito" if additive else "stratonovich")
    ts = torch.tensor([0.0, 0.35, 1.0], dtype=F64)

    def run(start, **more):
        y0 = torch.tensor([[0.5, 0.2], [start, 1.0], [0.7, -0.3]], dtype=F64, requires_grad=True)
        sol = ss.solve(problem, y0, ts, adjoint=adjoint, on_failure="return", **how, **more)
        good = sol.status == Status.SUCCESS
        assert bool(good[1]) == (start < 50)
        ys = sol.ys[:, good]
        reads = [rate] if kind == "ode" else [rate, size]
        return ys, *torch.autograd.grad(ys.sin().sum(), [y0, *reads])

    for start in (0.1, 90.0):
        for found, wanted in zip(run(start, compile=True), run(start), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-11)
    if adjoint in ("backsolve", "reversible"):
        y0 = torch.full((3, 2), 0.1, dtype=F64, requires_grad=True)
        ys = ss.solve(problem, y0, ts, adjoint=adjoint, compile=True, **how).ys
        with pytest.raises(ss.SolveError, match="modified in place"):
            torch.autograd.grad(ys.mul_(3).sum(), rate)


@pytest.mark.traced
def test_a_start_that_makes_two_states_hands_the_gradients_of_both_on():
    """Steps of a coupled method begin at y and z, which both are y0."""
    theta = torch.tensor(0.7, dtype=F64, requires_grad=True)
    method = ss.methods.Coupled(ss.methods.METHODS["ode", "midpoint"], 0.9)
    ode = ss.ODE(lambda t, y: torch.sin(theta * y) + torch.cos(t))
    assert_compiled_is_eager(
        ode, [theta], torch.tensor([[1.0, 0.3], [0.2, -0.5]], dtype=F64), TS, dt=0.1, method=method
    )
