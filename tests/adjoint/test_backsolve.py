"""The continuous adjoint: the same gradients as autograd through the steps, up to the tolerance, and none missing."""

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sdesolve as ss

F64 = torch.float64
TS = torch.tensor([0.0, 0.4, 1.0], dtype=F64)


def inputs():
    y0 = torch.tensor([[0.5, -0.3], [1.0, 0.2], [-2.0, 1.0]], dtype=F64, requires_grad=True)
    a = torch.tensor([[0.3, 1.0], [-1.2, 0.1]], dtype=F64, requires_grad=True)
    return y0, a


def ode(a):
    return ss.ODE(lambda t, y: torch.tanh((a * y[:, None, :]).sum(-1)) + torch.cos(t))


def gradients(adjoint, ts=TS, loss=lambda ys: (ys * ys).sum(), **how):
    y0, a = inputs()
    return torch.autograd.grad(loss(ss.solve(ode(a), y0, ts, adjoint=adjoint, **how).ys), (y0, a))


def distance(found, wanted):
    return max(float((f - w).abs().max() / w.abs().max()) for f, w in zip(found, wanted, strict=True))


OWN = torch.tensor([[0.0, 0.4, 1.0], [0.2, 0.3, 2.0], [-1.0, 0.0, 0.1]], dtype=F64)
TIMES = {
    "two": TS[[0, 2]],
    "three": TS,
    "21": torch.linspace(0, 4, 21, dtype=F64),
    "backwards": TS.flip(0),
    "own": OWN,
    "own backwards": OWN.flip(1),
}


@pytest.mark.parametrize(
    "times, clocks", [(name, "own clocks") for name in TIMES] + [("three", "shared"), ("21", "shared")]
)
def test_backsolve_tends_to_direct_as_the_tolerance_falls(times, clocks):
    ts = TIMES[times]
    how = {"shared_steps": clocks == "shared"}
    truth = gradients("direct", ts, rtol=1e-11, atol=1e-12, **how)
    errors = []
    for tol in (1e-4, 1e-6, 1e-8):
        errors.append(distance(gradients("backsolve", ts, rtol=tol, atol=tol, **how), truth))
        # both the solve and the adjoint are within tol a step, over some tens of steps
        assert errors[-1] < 60 * tol, errors
    assert errors[2] < 1e-2 * errors[0]


@pytest.mark.parametrize("method", ["heun", "rk4", "tsit5"])
@pytest.mark.parametrize("times", TIMES)
def test_backsolve_with_fixed_steps_tends_to_direct_with_the_order_of_the_method(method, times):
    order = {"heun": 2, "rk4": 4, "tsit5": 5}[method]
    coarse, fine = (
        distance(*(gradients(adj, TIMES[times], dt=dt, method=method) for adj in ("backsolve", "direct")))
        for dt in (0.1, 0.025)
    )
    # a quarter of the step; half of 4^order leaves room for the next order
    assert fine < coarse / 4**order * 2 + 1e-12, (coarse, fine)
    assert coarse < 0.1


@settings(max_examples=10)
@given(rate=st.floats(-2, 2), start=st.floats(0.1, 3), outputs=st.sampled_from([2, 5, 21]))
def test_gradients_of_the_linear_ode_are_the_closed_forms(rate, start, outputs):
    """L = sum_i y(t_i): dL/dy_0 = sum e^(a t_i), dL/da = sum t_i y_0 e^(a t_i)."""
    y0 = torch.tensor([[start], [2.0]], dtype=F64, requires_grad=True)
    a = torch.tensor(rate, dtype=F64, requires_grad=True)
    ts = torch.linspace(0, 1.5, outputs, dtype=F64)
    sol = ss.solve(ss.ODE(lambda t, y: a * y), y0, ts, rtol=1e-9, atol=1e-9, adjoint="backsolve")
    dy0, da = torch.autograd.grad(sol.ys.sum(), (y0, a))
    growth = torch.exp(rate * ts)
    assert torch.allclose(dy0, growth.sum().expand(2, 1), rtol=1e-6)
    assert torch.allclose(da, (ts * growth).sum() * (start + 2.0), rtol=1e-6)


@settings(max_examples=20)
@given(power=st.integers(-30, 30), times=st.sampled_from(sorted(TIMES)), fixed=st.booleans())
def test_scaling_the_loss_scales_the_gradients_bitwise(power, times, fixed):
    """Tolerances mean the same for losses of any size: for powers of two the same steps, the same digits."""
    how = {"dt": 0.1} if fixed else {"rtol": 1e-4, "atol": 1e-6}
    plain = gradients("backsolve", TIMES[times], **how)
    scaled = gradients("backsolve", TIMES[times], lambda ys: 2.0**power * (ys * ys).sum(), **how)
    assert all(torch.equal(s, 2.0**power * p) for s, p in zip(scaled, plain, strict=True))


def test_a_loss_of_1e_9_keeps_its_relative_accuracy():
    truth = gradients("direct", rtol=1e-11, atol=1e-12)
    small = gradients("backsolve", loss=lambda ys: 1e-9 * (ys * ys).sum(), rtol=1e-6, atol=1e-6)
    assert distance([1e9 * g for g in small], truth) < 60e-6


def test_a_loss_that_does_not_depend_on_the_solution_has_gradient_zero():
    assert all((g == 0).all() for g in gradients("backsolve", loss=lambda ys: 0 * ys.sum(), rtol=1e-4))


# ---- wherever a tensor hides


class Plain:
    """Not a module: a tensor as an attribute, read by a bound method."""

    def __init__(self, a):
        self.inner = {"weights": [a]}

    def f(self, t, y):
        return torch.sin(self.inner["weights"][0] * y)


class Late(Plain):
    def f(self, t, y):
        return super().f(t, y) if bool((t > 0.5).any()) else torch.sin(0.3 * y)


class Slotted:
    __slots__ = ("a",)

    def __init__(self, a):
        self.a = a

    def __call__(self, t, y):
        return torch.sin(self.a * y)


class Sub(ss.ODE):
    def __init__(self, a):
        super().__init__()
        self.hidden = (a,)

    def f(self, t, y):
        return torch.sin(self.hidden[0] * y)


class Module(torch.nn.Module):
    def __init__(self, a):
        super().__init__()
        self.a = a

    def forward(self, t, y):
        return torch.sin(self.a * y)


def nested(a):
    def inner(y):
        return torch.sin(a * y)

    def middle(t, y):
        return inner(y)

    return middle


def late(a):
    """Not read at the start: only behind the middle of the span."""
    return lambda t, y: torch.sin(a * y) if bool((t > 0.5).any()) else torch.sin(0.3 * y)


HIDING = {
    "closure": lambda a: ss.ODE(lambda t, y: torch.sin(a * y)),
    "closure of a closure": lambda a: ss.ODE(nested(a)),
    "list": lambda a: (lambda box: ss.ODE(lambda t, y: torch.sin(box[0] * y)))([a]),
    "dict in a tuple": lambda a: (lambda box: ss.ODE(lambda t, y: torch.sin(box[0]["a"] * y)))(({"a": a},)),
    "default argument": lambda a: ss.ODE(lambda t, y, a=a: torch.sin(a * y)),
    "partial": lambda a: ss.ODE(functools.partial(lambda a, t, y: torch.sin(a * y), a)),
    "partial by keyword": lambda a: ss.ODE(functools.partial(lambda t, y, a: torch.sin(a * y), a=a)),
    "bound method": lambda a: ss.ODE(Plain(a).f),
    "callable with slots": lambda a: ss.ODE(Slotted(a)),
    "attribute of a module": lambda a: ss.ODE(Module(a)),
    "subclass": Sub,
    "late": lambda a: ss.ODE(late(a)),
    "late in a bound method": lambda a: ss.ODE(Late(a).f),
}


@pytest.mark.parametrize("leaf", [True, False], ids=["leaf", "non-leaf"])
@pytest.mark.parametrize("hiding", HIDING)
def test_no_gradient_goes_missing(hiding, leaf):
    found = {}
    for adjoint in ("direct", "backsolve"):
        source = torch.tensor([0.7, -0.4], dtype=F64, requires_grad=True)
        a = source if leaf else torch.exp(source) - 1
        y0 = torch.tensor([[0.5, -0.3], [1.0, 0.2]], dtype=F64)
        control = ss.PID(1e-8, 1e-8, jumps=[0.5])  # where the late ones change
        sol = ss.solve(HIDING[hiding](a), y0, TS, controller=control, shared_steps=True, adjoint=adjoint)
        # the tensor takes part in the loss beside the solve, too
        (found[adjoint],) = torch.autograd.grad((sol.ys * sol.ys).sum() + a.sum(), source)
    assert torch.allclose(found["backsolve"], found["direct"], rtol=1e-6)


def test_parameters_of_modules_gather_gradients():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2)).double()
    y0, found = inputs()[0], {}
    for adjoint in ("direct", "backsolve"):
        net.zero_grad()
        problem = ss.ODE(lambda t, y: net(y))
        ss.solve(problem, y0, TS, rtol=1e-8, atol=1e-8, adjoint=adjoint).ys.square().sum().backward()
        found[adjoint] = [p.grad.clone() for p in net.parameters()]
    assert distance(found["backsolve"], found["direct"]) < 1e-6


def test_a_frozen_parameter_gets_no_gradient_and_the_others_do():
    y0, a = inputs()
    frozen = torch.ones(2, dtype=F64)
    sol = ss.solve(ss.ODE(lambda t, y: frozen * torch.sin(a[0] * y)), y0.detach(), TS, rtol=1e-6, adjoint="backsolve")
    sol.ys.sum().backward()
    assert frozen.grad is None and a.grad is not None and y0.grad is None
    nothing = ss.solve(ss.ODE(lambda t, y: -y), y0.detach(), TS, rtol=1e-6, adjoint="backsolve")
    assert not nothing.ys.requires_grad


@pytest.mark.parametrize("state", [torch.float32, F64, torch.complex128])
@pytest.mark.parametrize("parameter", [torch.float32, F64, torch.complex128])
def test_parameters_of_any_dtype_get_their_gradient(state, parameter):
    found = {}
    for adjoint in ("direct", "backsolve"):
        y0 = torch.tensor([[0.5, -0.3], [1.0, 0.2]]).to(state).requires_grad_()
        w = torch.tensor([0.5, 0.3]).to(parameter)
        w = (w * (1 + 0.5j) if parameter.is_complex else w).requires_grad_()

        def f(t, y, w=w, state=state):
            out = w * torch.exp(1j * t) * torch.sin(y)
            return out.to(state) if state.is_complex else out.real.to(state)

        tolerance = 1e-5 if state == torch.float32 else 1e-9
        sol = ss.solve(ss.ODE(f), y0, TS, rtol=tolerance, atol=tolerance, adjoint=adjoint)
        found[adjoint] = torch.autograd.grad(sol.ys.abs().square().sum(), (y0, w))
    assert found["backsolve"][1].dtype == parameter
    assert distance(found["backsolve"], found["direct"]) < (6e-4 if state == torch.float32 else 1e-6)


@settings(max_examples=10)
@given(jump=st.floats(0.05, 0.95), outputs=st.integers(2, 5))
def test_backsolve_stops_at_the_jumps_of_the_right_hand_side(jump, outputs):
    """y' = a y before the jump and -2 a y behind: dL/dy_0 and dL/da in closed form, with the jump between outputs."""
    y0 = torch.tensor([[1.0], [0.5]], dtype=F64, requires_grad=True)
    a = torch.tensor(0.7, dtype=F64, requires_grad=True)
    problem = ss.ODE(lambda t, y: torch.where(t < jump, 1.0, -2.0) * a * y)
    ts = torch.linspace(0, 1, outputs, dtype=F64)
    sol = ss.solve(problem, y0, ts, controller=ss.PID(1e-9, 1e-9, jumps=[jump]), adjoint="backsolve")
    dy0, da = torch.autograd.grad(sol.ys.sum(), (y0, a))
    s = ts.clamp(max=jump) - 2 * (ts - jump).clamp(min=0)
    growth = torch.exp(0.7 * s)
    assert torch.allclose(dy0, growth.sum().expand(2, 1), rtol=1e-6)
    assert torch.allclose(da, 1.5 * (s * growth).sum(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("own", [False, True])
def test_tolerances_of_components_reach_the_backward_solve(own):
    ts = TIMES["own" if own else "three"]
    atol = torch.tensor([1e-8, 1e-6], dtype=F64)
    truth = gradients("direct", ts, rtol=1e-11, atol=1e-12)
    assert distance(gradients("backsolve", ts, rtol=1e-8, atol=atol), truth) < 1e-5


def test_pytree_states_and_whole_states_have_their_gradients():
    found = {}
    for adjoint in ("direct", "backsolve"):
        y0, a = inputs()
        f = lambda t, y, a=a: {"x": y["v"] * a[0, 1], "v": -torch.sin(y["x"]) * t.reshape(-1, 1)}
        start = {"x": y0[:, :1], "v": y0[:, 1:]}
        ys = ss.solve(ss.ODE(f), start, TS, rtol=1e-8, atol=1e-8, adjoint=adjoint).ys
        tree = torch.autograd.grad(ys["x"].square().sum() + ys["v"].sum(), (y0, a))
        whole = ss.ODE(lambda t, y, a=a: torch.sin(y @ a) + y.mean(), batched=False)
        ys = ss.solve(whole, y0, TS, rtol=1e-8, atol=1e-8, adjoint=adjoint).ys
        found[adjoint] = [*tree, *torch.autograd.grad(ys.square().sum(), (y0, a))]
    assert distance(found["backsolve"], found["direct"]) < 1e-6


def test_vectorized_functions_have_their_gradients():
    found = {}
    for adjoint in ("direct", "backsolve"):
        y0, a = inputs()
        problem = ss.ODE(lambda t, y, a=a: torch.sin(a @ y) * t, vectorize=True)
        ys = ss.solve(problem, y0, TS, rtol=1e-8, atol=1e-8, adjoint=adjoint).ys
        found[adjoint] = torch.autograd.grad(ys.square().sum(), (y0, a))
    assert distance(found["backsolve"], found["direct"]) < 1e-6


def test_double_backward_is_refused_by_backsolve_and_works_for_direct():
    y0, a = inputs()
    direct, backsolve = (ss.solve(ode(a), y0, TS, rtol=1e-6, adjoint=adj).ys for adj in ("direct", "backsolve"))
    (first,) = torch.autograd.grad(direct.square().sum(), a, create_graph=True)
    first.sum().backward()
    assert a.grad is not None and a.grad.abs().max() > 0
    with pytest.raises(ss.SolveError, match="adjoint='direct'"):
        torch.autograd.grad(backsolve.square().sum(), a, create_graph=True)


def test_the_forward_solution_of_backsolve_is_that_of_direct():
    y0, a = inputs()
    for how in ({"rtol": 1e-6}, {"dt": 0.1}):
        direct, backsolve = (ss.solve(ode(a), y0, TS, adjoint=adj, **how) for adj in ("direct", "backsolve"))
        assert torch.equal(direct.ys, backsolve.ys) and torch.equal(direct.stats.steps, backsolve.stats.steps)


def test_many_outputs_do_not_restart_the_backward_solve():
    """101 outputs cost what landing on them costs: a first same as last stage at each, not a new first step."""
    calls = {}
    for outputs in (2, 101):
        count = [0]
        y0, a = inputs()

        def f(t, y, a=a, count=count):
            count[0] += 1
            return torch.tanh((a * y[:, None, :]).sum(-1)) + torch.cos(t)

        ts = torch.linspace(0, 30, outputs, dtype=F64)
        sol = ss.solve(ss.ODE(f), y0, ts, rtol=1e-7, atol=1e-7, adjoint="backsolve")
        before = count[0]
        sol.ys[-1].sum().backward()
        calls[outputs] = count[0] - before
    # a landing costs at most one step more, of six evaluations, and the first stage made anew
    assert calls[101] <= calls[2] + 99 * 7, calls


def test_options_of_the_backward_solve():
    """Its own tolerances decide on its error; without the seminorm it takes more steps, with the same result."""
    ts = torch.linspace(0, 2, 3, dtype=F64)
    how = {"rtol": 1e-9, "atol": 1e-9, "shared_steps": True}
    truth = gradients("direct", ts, **how)
    errors = [distance(gradients(ss.Backsolve(rtol=r, atol=r), ts, **how), truth) for r in (1e-3, 1e-5, 1e-8)]
    assert 1e-9 < errors[2] < 1e-2 * errors[1] < 1e-3 * errors[0] < 1e-4, errors

    def calls(seminorm):
        count, (y0, a) = [0], inputs()

        def f(t, y):
            count[0] += 1
            return 5 * torch.tanh((a * y[:, None, :]).sum(-1)) + torch.cos(t)

        ys = ss.solve(ss.ODE(f), y0, ts, adjoint=ss.Backsolve(seminorm=seminorm), **how).ys
        before = count[0]
        found = torch.autograd.grad((ys * ys).sum(), (y0, a))
        return count[0] - before, found

    (few, found), (many, same) = calls(True), calls(False)
    assert few < many
    assert distance(found, same) < 1e-6


def test_options_of_the_wrong_kind_are_refused():
    for bad in (0, -1e-3, float("nan")):
        with pytest.raises(ValueError, match="rtol: got"):
            ss.Backsolve(rtol=bad)
    with pytest.raises(TypeError, match="atol: got '1e-3'"):
        ss.Backsolve(atol="1e-3")
    with pytest.raises(TypeError, match="seminorm: got 1"):
        ss.Backsolve(seminorm=1)
