"""Checkpointing gives the gradients of direct backpropagation, in the memory that it was allowed."""

import gc
import weakref
from math import comb

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

import sdesolve as ss
from sdesolve.adjoint.stretches import divide
from sdesolve.brownian.steps import OwnSteps

F64 = torch.float64
TS = torch.tensor([0.0, 0.37, 1.0], dtype=F64)


def inputs(batch=3):
    y0 = torch.linspace(-0.5, 1.0, 2 * batch, dtype=F64).reshape(batch, 2).requires_grad_()
    a = torch.tensor([[0.3, 1.0], [-1.2, 0.1]], dtype=F64, requires_grad=True)
    return y0, a


def ode(a):
    return ss.ODE(lambda t, y: torch.tanh((a * y[:, None, :]).sum(-1)) + torch.cos(t))


def switched(a):
    """Right-hand side that jumps at t = 0.6."""
    return ss.ODE(lambda t, y: torch.tanh((a * y[:, None, :]).sum(-1)) * torch.where(t < 0.6, 1.0, -2.0))


def sde(a, noise, calculus="ito"):
    g = {
        "diagonal": lambda t, y: 0.3 * torch.cos(a[0] * y),
        "scalar": lambda t, y: 0.3 * torch.cos(a[0] * y.flip(-1)),
        "general": lambda t, y: 0.3 * torch.stack([torch.cos(a[1] * y), a[0] * y.flip(-1)], -1),
        "additive": lambda t, y: 0.3 * torch.cos(a[0] * torch.ones_like(y)),
    }[noise]
    kind = {"noise": "diagonal", "additive": True} if noise == "additive" else {"noise": noise}
    return ss.SDE(lambda t, y: torch.tanh((a * y[:, None, :]).sum(-1)), g, calculus=calculus, **kind)


OWN = torch.tensor([[0.0, 0.2, 1.1], [0.0, 0.5, 0.6], [0.0, 1.0, 1.3]], dtype=F64)
CASES = {
    "ode, fixed": (ode, TS, {"dt": 0.03}),
    "ode, fixed, own times": (ode, OWN, {"dt": 0.05}),
    "ode, adaptive": (ode, TS, {"rtol": 1e-7, "atol": 1e-7}),
    "ode, shared": (ode, TS, {"rtol": 1e-7, "atol": 1e-7, "shared_steps": True}),
    "ode, own times": (ode, OWN, {"rtol": 1e-6, "atol": 1e-6}),
    "ode, backwards": (ode, TS.flip(0), {"rtol": 1e-6, "atol": 1e-6, "method": "bosh3"}),
    "ode, jumps": (switched, TS, {"controller": ss.PID(1e-6, 1e-6, jumps=(0.37, 0.6))}),
    "ode, shared, jumps": (switched, TS, {"controller": ss.PID(1e-6, 1e-6, jumps=(0.6,)), "shared_steps": True}),
    "sde, diagonal": (lambda a: sde(a, "diagonal"), TS, {"dt": 0.04, "seed": 1}),
    "sde, scalar, off the grid": (lambda a: sde(a, "scalar"), TS + 0.013, {"dt": 0.1, "seed": 1}),
    "sde, general": (lambda a: sde(a, "general", "stratonovich"), TS, {"dt": 0.04, "seed": 2}),
    "sde, sra1": (lambda a: sde(a, "additive"), TS, {"dt": 0.04, "seed": 2, "method": "sra1"}),
    "sde, adaptive": (lambda a: sde(a, "diagonal"), TS, {"rtol": 1e-3, "atol": 1e-3, "seed": 5}),
    "sde, adaptive, shared": (
        lambda a: sde(a, "general", "stratonovich"),
        TS,
        {"rtol": 1e-2, "atol": 1e-2, "seed": 5, "shared_steps": True},
    ),
    "sde, adaptive, own times": (lambda a: sde(a, "additive"), OWN, {"rtol": 1e-3, "atol": 1e-3, "seed": 5}),
    "sde, along a path": (
        lambda a: sde(a, "diagonal"),
        TS,
        {"dt": 0.05, "brownian": ss.BrownianPath(3, (3, 2), cell=0.05, dtype=F64), "method": "euler_maruyama"},
    ),
}
LOSS = torch.tensor([0.3, -1.0, 2.0], dtype=F64)


def gradients(make, ts, how, adjoint):
    y0, a = inputs()
    ys = ss.solve(make(a), y0, ts, adjoint=adjoint, **how).ys
    return ys.detach(), torch.autograd.grad((ys.sin() * LOSS[:, None, None]).sum(), (y0, a))


@pytest.mark.parametrize("steps", [None, 1, 2, 5, 1000])
@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_direct(case, steps):
    make, ts, how = CASES[case]
    ys, wanted = gradients(make, ts, how, "direct")
    same, found = gradients(make, ts, how, "checkpoint" if steps is None else ss.Checkpoint(steps))
    assert torch.equal(ys, same)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", ["ode, adaptive", "ode, shared, jumps", "sde, adaptive", "sde, general"])
def test_first_and_second_derivatives_are_those_of_finite_differences(case):
    make, ts, _ = CASES[case]
    y0, a = inputs(2)

    def run(y0, a):
        fixed = {"dt": 0.25, "seed": 1} if case.startswith("sde") else {"dt": 0.25}
        return ss.solve(make(a), y0, ts, adjoint=ss.Checkpoint(2), **fixed).ys[-1]

    assert gradcheck(run, (y0, a))
    assert gradgradcheck(run, (y0, a))


@pytest.mark.parametrize("case", ["ode, adaptive", "sde, adaptive"])
def test_second_derivatives_of_adaptive_solves_are_those_of_direct(case):
    make, ts, how = CASES[case]

    def second(adjoint):
        y0, a = inputs()
        ys = ss.solve(make(a), y0, ts, adjoint=adjoint, **how).ys
        (g,) = torch.autograd.grad(ys.square().sum(), a, create_graph=True)
        return torch.autograd.grad(g.square().sum(), (y0, a))

    for x, y in zip(second("checkpoint"), second("direct"), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-11, atol=1e-11)


class Token:
    """One for each evaluation whose graph is held."""

    alive = 0

    def __init__(self):
        Token.alive += 1

    def __del__(self):
        Token.alive -= 1


class Watched(torch.autograd.Function):
    """-y; on the way back notes how many graphs of evaluations are held, and seldom how many states."""

    graphs = states = calls = 0

    @staticmethod
    def forward(ctx, y):
        ctx.token = Token()
        return -y

    @staticmethod
    def backward(ctx, g):
        Watched.calls += 1
        Watched.graphs = max(Watched.graphs, Token.alive)
        if Watched.calls % 97 == 0:
            tensors = [x for x in gc.get_objects() if type(x) is torch.Tensor and x.numel() == 1000]
            Watched.states = max(Watched.states, len({x.untyped_storage().data_ptr() for x in tensors}))
        return -g


def held(adjoint, count):
    """The most graphs of steps, and states, that are held at a time on the way back."""
    y0 = torch.ones(1, 1000, dtype=F64, requires_grad=True)
    Watched.graphs = Watched.states = Watched.calls = 0
    ts = torch.tensor([0.0, 1.0], dtype=F64)
    ys = ss.solve(ss.ODE(lambda t, y: Watched.apply(y)), y0, ts, method="euler", dt=1 / count, adjoint=adjoint).ys
    ys[-1].sum().backward()
    return Watched.graphs, Watched.states


def test_graphs_and_states_held_are_the_budget_or_the_logarithm_of_the_steps():
    for budget in (5, 20):
        for count in (400, 1600):
            graphs, states = held(ss.Checkpoint(budget), count)
            # the graph holds states too, and each of two steps under way some
            assert graphs <= budget and states <= 2 * budget + 12
    graphs, states = held("checkpoint", 2000)
    assert graphs <= 11 and states <= 34
    graphs, states = held("direct", 400)
    assert graphs == 400


@pytest.mark.parametrize("steps, count", [(3, 50), (8, 64), (8, 65), (20, 400), (None, 300)])
def test_no_step_is_taken_again_more_often_than_the_best_division_needs(steps, count):
    calls = 0

    def f(t, y):
        nonlocal calls
        calls += 1
        return -y

    y0 = torch.ones(1, 1, dtype=F64, requires_grad=True)
    adjoint = ss.Checkpoint(steps)
    ys = ss.solve(ss.ODE(f), y0, torch.tensor([0.0, 1.0], dtype=F64), method="euler", dt=1 / count, adjoint=adjoint).ys
    before = calls
    ys[-1].sum().backward()
    room = steps or max(8, count.bit_length())
    units, again = -(-count // room), 0
    while comb(room + again, room) < 2 * units:  # half of the states may have gone when they became too many
        again += 1
    assert calls - before <= (again + 1) * count + 1


@given(st.integers(2, 3000), st.integers(1, 12))
def test_division_is_the_best_there_is(count, states):
    """Against the recursion for the fewest steps taken again (Griewank & Walther 2000)."""
    again = 0
    while comb(states + again, states) < count:
        again += 1
    left = divide(count, states)
    assert 1 <= left < count
    assert left <= comb(states + again - 1, states)
    if states > 1:
        assert count - left <= comb(states - 1 + again, states - 1)
    else:
        assert count - left == 1


def test_a_trajectory_that_fails_leaves_the_gradients_of_others_alone():
    f = lambda a: ss.ODE(lambda t, y: a * y * y)
    y0 = torch.tensor([[0.5], [3.0], [0.2]], dtype=F64)
    for how in ({"rtol": 1e-6, "atol": 1e-6}, {"dt": 0.01}, {"rtol": 1e-6, "atol": 1e-6, "shared_steps": True}):

        def run(lanes, adjoint, how=how):
            a, start = torch.tensor(1.0, dtype=F64, requires_grad=True), y0[lanes].requires_grad_()
            ys = ss.solve(f(a), start, TS, adjoint=adjoint, on_failure="return", **how).ys
            loss = torch.where(ys.isnan(), 0.0, ys).square().sum()
            if len(lanes) == 3:
                loss = ys[:, [0, 2]].square().sum()
            return torch.autograd.grad(loss, (start, a))

        start, a = run([0, 1, 2], "checkpoint")
        assert start[1].item() == 0
        alone, b = run([0, 1, 2], "direct")
        torch.testing.assert_close(start, alone, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
        assert torch.isfinite(a)


@settings(max_examples=20)
@given(st.floats(-2, 2), st.integers(1, 40), st.integers(1, 9))
def test_gradients_of_the_linear_ode_are_the_closed_forms_of_the_method(rate, count, steps):
    """Euler: y_N = (1 + h r)^N y_0."""
    y0 = torch.ones(1, 1, dtype=F64, requires_grad=True)
    r = torch.tensor(rate, dtype=F64, requires_grad=True)
    ts = torch.tensor([0.0, 1.0], dtype=F64)
    ys = ss.solve(ss.ODE(lambda t, y: r * y), y0, ts, method="euler", dt=1 / count, adjoint=ss.Checkpoint(steps)).ys
    gy, gr = torch.autograd.grad(ys[-1].sum(), (y0, r))
    assert gy.item() == pytest.approx((1 + rate / count) ** count, rel=1e-12)
    assert gr.item() == pytest.approx((1 + rate / count) ** (count - 1), rel=1e-12)


def test_parameters_that_only_the_diffusion_reads_get_their_gradient():
    s = torch.tensor(0.4, dtype=F64, requires_grad=True)
    problem = ss.SDE(lambda t, y: -y, lambda t, y: s * torch.ones_like(y), additive=True)
    ys = ss.solve(problem, torch.ones(4, 1, dtype=F64), TS, dt=0.1, seed=0, adjoint="checkpoint").ys
    ys[-1].sum().backward()
    again = ss.solve(problem, torch.ones(4, 1, dtype=F64), TS, dt=0.1, seed=0).ys
    (wanted,) = torch.autograd.grad(again[-1].sum(), s)
    assert s.grad is not None
    torch.testing.assert_close(s.grad, wanted, rtol=1e-12, atol=0)


@pytest.mark.parametrize("create_graph", [False, True])
def test_a_tensor_that_cannot_be_found_beforehand_is_reported(create_graph):
    late = torch.tensor(0.5, dtype=F64, requires_grad=True)
    fetch = weakref.ref(late)
    f = ss.ODE(lambda t, y: -y if t < 0.5 else -fetch() * y)
    y0 = torch.ones(1, 1, dtype=F64, requires_grad=True)
    ys = ss.solve(f, y0, TS, dt=0.1, adjoint="checkpoint").ys
    with pytest.raises(ss.SolveError, match=r"adjoint: the functions read a tensor of shape \(\)"):
        torch.autograd.grad(ys[-1].sum(), y0, create_graph=create_graph)


def end(f, y0, adjoint, **how):
    return ss.solve(ss.ODE(f), y0, TS, adjoint=adjoint, **(how or {"dt": 0.05})).ys[-1].sum()


SHARING = {
    "a parameter that y0 is made of": lambda a, adjoint: end(lambda t, y: -a * y, a * torch.ones(2, 1), adjoint),
    "y0 in the closure": lambda a, adjoint: end(lambda t, y: -y * a, a, adjoint),
    "a tensor made of a parameter": lambda a, adjoint: (
        lambda w: end(lambda t, y: -w * y, torch.ones(2, 1, dtype=F64), adjoint) + w.square().sum()
    )(a.exp()),
    "that, and the parameter": lambda a, adjoint: (
        lambda w: end(lambda t, y: -w * y * a, torch.ones(2, 1, dtype=F64), adjoint)
    )(a.exp()),
    "one of several outputs of a node": lambda a, adjoint: (
        lambda u, v: end(lambda t, y: -u * y + v, torch.ones(2, 1, dtype=F64), adjoint)
    )(*torch.stack([a, 2 * a]).unbind()),
}


@pytest.mark.parametrize(
    "adjoint, create_graph", [(ss.Checkpoint(3), False), (ss.Checkpoint(3), True), ("backsolve", False)]
)
@pytest.mark.parametrize("case", SHARING)
def test_tensors_that_are_made_of_each_other_count_once(case, adjoint, create_graph):
    def run(adjoint):
        a = torch.full((2, 1), 0.7, dtype=F64, requires_grad=True)
        (g,) = torch.autograd.grad(SHARING[case](a, adjoint), a, create_graph=create_graph)
        return torch.autograd.grad(g.square().sum(), a)[0] if create_graph else g

    tolerance = 1e-7 if adjoint == "backsolve" else 1e-12  # 1e-7: tsit5 with steps of 0.05, (0.05)^5
    torch.testing.assert_close(run(adjoint), run("direct"), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("adjoint", [ss.Checkpoint(3), "backsolve"])
def test_gradients_by_tensors_that_are_no_leaves_and_hooks_once(adjoint):
    def run(adjoint, called):
        raw = torch.tensor(0.7, dtype=F64, requires_grad=True)
        w, b = raw.exp(), torch.tensor(0.3, dtype=F64, requires_grad=True)
        w.register_hook(lambda g: called.append("w") or g.clamp(-0.1, 0.1))
        b.register_hook(lambda g: called.append("b") or 2 * g)
        loss = end(lambda t, y: -w * y + b, torch.ones(2, 1, dtype=F64), adjoint)
        (direct,) = torch.autograd.grad(loss, w, retain_graph=True)
        loss.backward()
        return direct, raw.grad, b.grad

    calls, wanted_calls = [], []
    tolerance = 1e-7 if adjoint == "backsolve" else 1e-12
    for x, y in zip(run(adjoint, calls), run("direct", wanted_calls), strict=True):
        torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance)
    assert calls == wanted_calls


def test_second_derivatives_by_torch_autograd_functional_are_those_of_direct():
    loss = lambda adjoint: lambda a: end(lambda t, y: -a * y, torch.ones(2, 1, dtype=F64), adjoint)
    a = torch.tensor(0.5, dtype=F64)
    found, wanted = (torch.autograd.functional.hessian(loss(x), a) for x in ("checkpoint", "direct"))
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)


def test_a_trajectory_that_cannot_start_leaves_the_others_gradients_alone():
    a = torch.tensor(1.0, dtype=F64, requires_grad=True)
    y0 = torch.tensor([[0.5], [1.0], [2.0]], dtype=F64)
    for how in ({"dt": 0.05}, {"rtol": 1e-5, "atol": 1e-5}):
        f = ss.ODE(lambda t, y: a * (1.6 - y).sqrt())
        given = {"on_failure": "return", **how}
        found, wanted = (
            torch.autograd.grad(ss.solve(f, y0, TS, adjoint=x, **given).ys[-1, :2].sum(), a)[0]
            for x in ("checkpoint", "direct")
        )
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)


def test_functions_may_make_leaves_of_their_own():
    net = torch.nn.Linear(1, 1, dtype=F64)

    def f(t, y):
        with torch.enable_grad():
            x = y.detach().requires_grad_()
            (g,) = torch.autograd.grad(net(x).tanh().sum(), x, create_graph=True)
        return -g

    found, wanted = (
        torch.autograd.grad(end(f, torch.ones(2, 1, dtype=F64), x), net.weight)[0] for x in ("checkpoint", "direct")
    )
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)


@pytest.mark.parametrize("adjoint", [ss.Checkpoint(2), "backsolve"])
def test_automatic_casts_of_the_forward_solve_hold_on_the_way_back(adjoint):
    a, seen = torch.tensor(0.5, requires_grad=True), []

    def f(t, y):
        seen.append(torch.is_autocast_enabled("cpu"))
        return -a * y

    with torch.autocast("cpu", torch.bfloat16):
        ys = ss.solve(ss.ODE(f), torch.ones(2, 4), TS.float(), dt=0.1, adjoint=adjoint).ys
    before = len(seen)
    ys[-1].sum().backward()
    assert len(seen) > before and all(seen)


def test_noise_of_long_stretches_is_drawn_in_blocks(monkeypatch):
    asked = []
    noise = OwnSteps.__call__
    monkeypatch.setattr(OwnSteps, "__call__", lambda self, a, b: asked.append(b - a) or noise(self, a, b))
    a = torch.tensor(1.0, dtype=F64, requires_grad=True)
    sde = ss.SDE(lambda t, y: -a * y, lambda t, y: torch.ones_like(y), additive=True)
    given = {"dt": 0.02, "seed": 0, "method": "euler_maruyama"}
    ys = ss.solve(sde, torch.ones(2**16, 1, dtype=F64), TS, adjoint=ss.Checkpoint(3), **given).ys
    before, asked[:] = max(asked), []
    ys[-1].sum().backward()
    assert max(asked) <= before


def test_torch_func_is_refused_in_words():
    with pytest.raises(ValueError, match=r"adjoint: got another one than 'direct' inside torch.func"):
        torch.func.grad(lambda a: end(lambda t, y: -a * y, torch.ones(2, 1), "checkpoint"))(torch.tensor(0.5))


def test_what_is_changed_in_place_before_the_gradients_is_noticed():
    y0, a = inputs()
    ys = ss.solve(ode(a), y0, TS, dt=0.1, adjoint="checkpoint").ys
    with torch.no_grad():
        a.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        ys.sum().backward()


def test_requests_that_make_no_sense_are_refused():
    y0, a = inputs()
    for steps, error in ((0, ValueError), (-3, ValueError), (2.5, TypeError), (True, TypeError)):
        with pytest.raises(error, match="steps: got"):
            ss.Checkpoint(steps)
    with pytest.raises(ValueError, match=r"adjoint: got 'chekpoint'; accepted is one of 'direct', 'checkpoint'"):
        ss.solve(ode(a), y0, TS, adjoint="chekpoint")
    with pytest.raises(ValueError, match="adjoint: got 3"):
        ss.solve(ode(a), y0, TS, adjoint=3)
    with pytest.raises(ss.CompileError, match="compile: got True with adjoint='checkpoint' and adaptive steps"):
        ss.solve(ode(a), y0, TS, rtol=1e-3, adjoint="checkpoint", compile=True)
    with pytest.raises(ValueError, match="dense: got True with adjoint='checkpoint'"):
        ss.solve(ode(a), y0, TS, dt=0.1, adjoint="checkpoint", dense=True)
