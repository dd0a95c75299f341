"""Gradients of reversible steps are those of backpropagation through them, from the last state alone."""

import weakref

import pytest
import torch
from torch.autograd import gradcheck

import sdesolve as ss
from sdesolve.methods import METHODS, Coupled
from tests.adjoint.test_checkpoint import CASES, TS, inputs, ode, sde
from tests.adjoint.test_checkpoint import gradients as gradients_of

F64 = torch.float64
SMOOTH = [case for case in CASES if "jumps" not in case]


def stratonovich(case):
    """The case for methods that solve Stratonovich equations, without a method of its own."""
    make, ts, how = CASES[case]
    how = {name: value for name, value in how.items() if name != "method"}
    return (lambda a: make(a).to_calculus("stratonovich")) if case.startswith("sde") else make, ts, how


@pytest.mark.parametrize("method", ["default", "reversible_heun", "heun", "bosh3"])
@pytest.mark.parametrize("case", SMOOTH)
def test_gradients_are_those_of_direct(case, method):
    kind = case[:3]
    if (kind, method) == ("sde", "bosh3"):
        method = "heun"
    make, ts, how = stratonovich(case)
    named = {} if method == "default" else {"method": method}
    ys, found = gradients_of(make, ts, how | named, ss.Reversible(0.99))
    if method == "default":
        method = "tsit5" if kind == "ode" else "reversible_heun"
    plain = METHODS[kind, method]
    same, wanted = gradients_of(
        make, ts, how | {"method": plain if method == "reversible_heun" else Coupled(plain, 0.99)}, "direct"
    )
    assert torch.equal(ys, same)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shape", [(2,), (2, 3), (2, 1, 2)])
@pytest.mark.parametrize("method", ["rk4", "reversible_heun"])
def test_gradcheck(shape, method):
    y0 = torch.linspace(-1, 1, torch.Size(shape).numel(), dtype=F64).reshape(shape).requires_grad_()
    a = torch.tensor(0.7, dtype=F64, requires_grad=True)

    def run(y0, a):
        f = ss.ODE(lambda t, y: torch.sin(a * y + t))
        return ss.solve(f, y0, TS, dt=0.2, method=method, adjoint="reversible").ys[1:]

    assert gradcheck(run, (y0, a))


@pytest.mark.parametrize("noise", ["diagonal", "scalar", "general"])
def test_gradcheck_of_sdes(noise):
    y0, a = inputs(2)

    def run(y0, a):
        problem = sde(a, noise, "stratonovich")
        return ss.solve(problem, y0, TS, dt=0.2, seed=3, adjoint="reversible").ys[1:]

    assert gradcheck(run, (y0, a))


def test_trajectories_without_a_batch_and_complex_states():
    y0 = torch.tensor([0.5, -1.0], dtype=F64, requires_grad=True)
    a = torch.tensor(0.7, dtype=F64, requires_grad=True)
    f = ss.ODE(lambda t, y: torch.sin(a * y.flip(-1)), batched=False)
    method = Coupled(METHODS["ode", "tsit5"])
    for how in ({"dt": 0.1}, {"rtol": 1e-6}):
        run = lambda adjoint, how=how: ss.solve(f, y0, TS, method=method, adjoint=adjoint, **how).ys.square().sum()
        for x, y in zip(*(torch.autograd.grad(run(w), (y0, a)) for w in ("reversible", "direct")), strict=True):
            torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-10)
    z0 = torch.tensor([[1.0 + 0.5j]], dtype=torch.complex128, requires_grad=True)
    f = ss.ODE(lambda t, z: 1j * a * z)
    run = lambda adjoint: ss.solve(f, z0, TS, dt=0.1, method=method, adjoint=adjoint).ys.abs().square().sum()
    for x, y in zip(*(torch.autograd.grad(run(w), (z0, a)) for w in ("reversible", "direct")), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-10)


class Held(torch.autograd.Function):
    """The identity, which knows how many of its graphs are alive."""

    alive = most = 0

    @staticmethod
    def forward(ctx, x):
        class Counted:
            def __init__(self):
                Held.alive += 1
                Held.most = max(Held.most, Held.alive)

            def __del__(self):
                Held.alive -= 1

        ctx.held = Counted()
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad


@pytest.mark.parametrize("method", ["tsit5", "reversible_heun"])
def test_evaluations_and_graphs_do_not_grow(method):
    """One graph of a step at a time; reversible Heun is evaluated once a step on each way."""
    a, calls = torch.tensor(0.5, dtype=F64, requires_grad=True), [0]
    Held.most = Held.alive

    def f(t, y):
        calls[0] += 1
        return Held.apply(-a * y)

    y0 = torch.ones(1, 1, dtype=F64, requires_grad=True)
    ys = ss.solve(ss.ODE(f), y0, TS[[0, 2]], dt=0.005, method=method, adjoint="reversible").ys
    forwards = calls[0]
    ys[-1].sum().backward()
    assert 0 < Held.most <= (2 if method == "reversible_heun" else 12)
    if method == "reversible_heun":
        # beside the steps: the graph's leaves are looked for at the start, the end and once more with the start
        assert forwards <= 203 and calls[0] - forwards <= 204


def test_a_failed_trajectory_has_gradient_zero_and_leaves_the_others_alone():
    def run(adjoint, rows):
        y0 = torch.tensor([[0.5], [3.0], [0.7]], dtype=F64)[rows].requires_grad_()
        a = torch.tensor(1.0, dtype=F64, requires_grad=True)
        f = ss.ODE(lambda t, y: a * y * y)
        sol = ss.solve(
            f, y0, TS, rtol=1e-6, atol=1e-6, method=Coupled(METHODS["ode", "bosh3"]), adjoint=adjoint,
            on_failure="return",
        )  # fmt: skip
        good = sol.status == ss.Status.SUCCESS
        return torch.autograd.grad(sol.ys[-1][good].sum(), (y0, a))

    y, a = run("reversible", [0, 1, 2])
    wanted_y, wanted_a = run("direct", [0, 2])
    torch.testing.assert_close(y[[0, 2]], wanted_y, rtol=1e-10, atol=0)
    torch.testing.assert_close(a, wanted_a, rtol=1e-10, atol=0)
    assert y[1] == 0


def test_what_is_not_possible_is_refused():
    y0, a = inputs()
    stratonovich = sde(a, "diagonal").to_calculus("stratonovich")
    with pytest.raises(
        ValueError, match=r"method: got 'milstein' with adjoint='reversible'.*'reversible_heun', 'heun'"
    ):
        ss.solve(stratonovich, y0, TS, dt=0.1, method="milstein", adjoint="reversible")
    for method in (None, "milstein"):
        with pytest.raises(ValueError, match="adjoint: got 'reversible' for an Ito SDE"):
            ss.solve(sde(a, "diagonal"), y0, TS, dt=0.1, method=method, adjoint="reversible")
    with pytest.raises(ValueError, match="jumps: got jumps with adjoint='reversible'"):
        ss.solve(ode(a), y0, TS, controller=ss.PID(1e-3, 1e-3, jumps=(0.5,)), adjoint="reversible")
    with pytest.raises(ss.CompileError, match="compile: got True with adjoint='reversible' and adaptive steps"):
        ss.solve(ode(a), y0, TS, rtol=1e-3, adjoint="reversible", compile=True)
    ys = ss.solve(ode(a), y0, TS, dt=0.1, adjoint="reversible").ys
    with pytest.raises(ss.SolveError, match="'reversible' was asked for gradients of its gradients"):
        torch.autograd.grad(ys.sum(), a, create_graph=True)


def test_a_tensor_that_cannot_be_found_beforehand_is_reported():
    late = torch.tensor(0.5, dtype=F64, requires_grad=True)
    fetch = weakref.ref(late)
    f = ss.ODE(lambda t, y: -y if t < 0.5 else -fetch() * y)
    y0 = torch.ones(1, 1, dtype=F64, requires_grad=True)
    for adjoint in ("reversible", "backsolve"):
        ys = ss.solve(f, y0, TS, dt=0.1, adjoint=adjoint).ys
        with pytest.raises(ss.SolveError, match=r"adjoint: the functions read a tensor of shape \(\)"):
            torch.autograd.grad(ys[-1].sum(), y0)


@pytest.mark.parametrize("how", [{"dt": 0.05}, {}, {"dt": 0.05, "method": "reversible_heun"}])
def test_solutions_that_draw_apart_are_a_failure(how):
    """y' = sin t - y forgets its start by exp(30): no reversible step is stable over that time."""
    f, ts = ss.ODE(lambda t, y: torch.sin(t) - y), torch.tensor([0.0, 30.0], dtype=F64)
    with pytest.raises(ss.SolveError, match="the two solutions of a reversible method drew apart") as caught:
        ss.solve(f, torch.ones(2, 1, dtype=F64), ts, adjoint="reversible", **how)
    assert caught.value.solution.status.tolist() == [ss.Status.DREW_APART] * 2
    short = ss.solve(f, torch.ones(2, 1, dtype=F64), ts / 15, adjoint="reversible", **how)
    t = ts[1] / 15
    assert (short.ys[-1] - (torch.sin(t) - torch.cos(t) + 3 * torch.exp(-t)) / 2).abs().max() < 0.01


def test_a_way_back_that_does_not_end_at_the_start_is_reported():
    """1 / 0.5 a step: after some fifty steps nothing is left of float64; steps between states that are kept are few."""
    f = ss.ODE(lambda t, y: torch.stack([y[..., 1], -torch.sin(y[..., 0])], -1))
    y0 = torch.tensor([[1.0, 0.5]], dtype=F64, requires_grad=True)
    ts = torch.tensor([0.0, 20.0], dtype=F64)
    ys = ss.solve(f, y0, ts, dt=0.01, method="rk4", adjoint=ss.Reversible(0.5)).ys
    with pytest.raises(ss.SolveError, match="'reversible' came back"):
        ys[-1].sum().backward()


def test_a_solution_that_is_zero_has_gradients():
    y0 = torch.zeros(2, 1, dtype=F64, requires_grad=True)
    ys = ss.solve(ss.ODE(lambda t, y: torch.sin(y)), y0, TS, dt=0.1, adjoint="reversible").ys
    (found,) = torch.autograd.grad(ys[-1].sum(), y0)
    torch.testing.assert_close(found, torch.full((2, 1), torch.e, dtype=F64), rtol=1e-4, atol=0)


class Shared:
    """Keeps a tensor for all its objects."""

    rate = torch.tensor(0.5, dtype=F64, requires_grad=True)


@pytest.mark.parametrize("adjoint", ["checkpoint", "reversible", "backsolve"])
def test_a_tensor_that_matters_late_is_found_in_a_class_or_reported(adjoint):
    f = ss.ODE(lambda t, y: -y if t < 0.5 else -Shared.rate * y)
    ys = ss.solve(f, torch.ones(1, 1, dtype=F64), TS, dt=0.1, adjoint=adjoint).ys
    (found,) = torch.autograd.grad(ys[-1].sum(), Shared.rate)
    (wanted,) = torch.autograd.grad(ss.solve(f, torch.ones(1, 1, dtype=F64), TS, dt=0.1).ys[-1].sum(), Shared.rate)
    torch.testing.assert_close(found, wanted, rtol=0.05, atol=0)  # the jump is inside a step
    late = torch.tensor(0.5, dtype=F64, requires_grad=True)
    fetch = weakref.ref(late)
    hidden = ss.ODE(lambda t, y: -y if t < 0.5 else -fetch() * y)
    with pytest.raises(ss.SolveError, match=r"adjoint: the functions read a tensor of shape \(\)"):
        ss.solve(hidden, torch.ones(1, 1, dtype=F64), TS, dt=0.1, adjoint=adjoint)
