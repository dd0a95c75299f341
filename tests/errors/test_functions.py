"""A drift or diffusion that returns the wrong thing, or cannot take what it is given, is told what it should do."""

import numpy as np
import pytest
import torch

import sdesolve as ss
from sdesolve.errors import FunctionError

Y = torch.ones(3, 2)
TREE = {"a": torch.ones(3, 2), "b": torch.ones(3)}
TS = torch.tensor([0.0, 0.5, 1.0])


def refused(call, *fragments, kind=FunctionError):
    """The call raises ``kind``, and its text or its notes have each of the fragments."""
    with pytest.raises(kind) as caught:
        call()
    text = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    for fragment in fragments:
        assert fragment in text, f"{fragment!r} is not in {text!r}"
    return text


def cases(**named):
    return pytest.mark.parametrize("case", named.values(), ids=named.keys())


DRIFTS = {
    "narrow": (lambda t, y: y[:, :1], Y, "f: returned shape (3, 1) for y of shape (3, 2)", "y's own shape"),
    "wide": (lambda t, y: torch.cat([y, y], 1), Y, "f: returned shape (3, 4)", "y's own shape"),
    "leading": (lambda t, y: y[None], Y, "f: returned shape (1, 3, 2)", "y's own shape"),
    "precise": (lambda t, y: y.double(), Y, "f: returned dtype torch.float64", "torch.float32", "convert y0"),
    "numpy": (lambda t, y: y.numpy(), Y, "f: returned ndarray", "a torch tensor"),
    "nothing": (lambda t, y: None, Y, "f: returned NoneType", "a torch tensor"),
    "number": (lambda t, y: 1.0, Y, "f: returned float", "a torch tensor"),
    "list": (lambda t, y: [y, y], Y, "f: returned list", "a torch tensor"),
    "other_keys": (lambda t, y: {"c": y["a"]}, TREE, "f: returned the structure", "['c']", "['a', 'b']"),
    "no_tree": (lambda t, y: y["a"], TREE, "f: returned the structure", "['a', 'b']"),
    "leaf": (lambda t, y: {"a": y["a"], "b": y["a"]}, TREE, "f: returned shape (3, 2) for y of shape (3,)"),
}


@pytest.mark.parametrize("steps", [{}, {"dt": 0.1}, {"shared_steps": True}], ids=["own", "fixed", "shared"])
@pytest.mark.parametrize("case", DRIFTS.values(), ids=DRIFTS.keys())
def test_a_drift_that_returns_the_wrong_thing_is_refused(case, steps):
    f, y0, *fragments = case
    refused(lambda: ss.solve(ss.ODE(f), y0, TS, **steps), *fragments)


def test_an_sde_calls_its_function_drift():
    sde = ss.SDE(lambda t, y: y[:, :1], lambda t, y: y)
    refused(lambda: ss.solve(sde, Y, TS, dt=0.1), "drift: returned shape (3, 1)")


@pytest.mark.parametrize("steps", [{}, {"dt": 0.1}], ids=["own", "fixed"])
def test_exchanged_arguments_are_suspected(steps):
    refused(lambda: ss.solve(ss.ODE(lambda y, t: -y), Y, TS, **steps), "called with (t, y), in this order")


def test_a_drift_that_turns_wrong_later_is_refused():
    late = ss.ODE(lambda t, y: -y if t < 0.6 else -y[:1])
    refused(lambda: ss.solve(late, Y, TS, dt=0.1), "f: returned shape (1, 2) for y of shape (3, 2)")


ELEMENTWISE = "write noise='general'"
MATRIX = "(3, 2, m) with m Brownian motions"
DIFFUSIONS = {
    "diagonal_matrix": ("diagonal", lambda y: torch.ones(3, 2, 2), "returned shape (3, 2, 2)", ELEMENTWISE),
    "diagonal_batch": ("diagonal", lambda y: torch.ones(4, 2), "returned shape (4, 2)", "y of shape (3, 2)"),
    "diagonal_lanes": ("diagonal", lambda y: torch.ones(3), "returned shape (3,)", "broadcasts to it"),
    "scalar_matrix": ("scalar", lambda y: torch.ones(3, 2, 1), "returned shape (3, 2, 1)", ELEMENTWISE),
    "scalar_batch": ("scalar", lambda y: torch.ones(3, 4), "returned shape (3, 4)", "broadcasts to it"),
    "general_vector": ("general", lambda y: torch.ones(4, 2), "returned shape (4, 2)", MATRIX, "noise='scalar'"),
    "general_number": ("general", lambda y: 0.3, "returned shape ()", MATRIX, "noise='diagonal'"),
    "general_no_columns": ("general", lambda y: torch.ones(3, 2, 0), "returned shape (3, 2, 0)", MATRIX),
    "general_leading": ("general", lambda y: torch.ones(1, 3, 2, 2), "returned shape (1, 3, 2, 2)", MATRIX),
    "dtype": ("diagonal", lambda y: y.double(), "returned dtype torch.float64", "torch.float32"),
    "numpy": ("scalar", lambda y: np.ones((3, 2)), "returned ndarray", "a torch tensor"),
    "nothing": ("general", lambda y: None, "returned NoneType", "a torch tensor"),
}


@pytest.mark.parametrize("case", DIFFUSIONS.values(), ids=DIFFUSIONS.keys())
def test_a_diffusion_that_returns_the_wrong_thing_is_refused(case):
    noise, g, *fragments = case
    sde = ss.SDE(lambda t, y: -y, lambda t, y: g(y), noise=noise)
    refused(lambda: ss.solve(sde, Y, TS, dt=0.1), "diffusion: ", *fragments)


def test_a_diffusion_keeps_its_number_of_brownian_motions():
    for later in (1, 3):
        g = lambda t, y, m=later: torch.ones(3, 2, 2 if t < 0.3 else m)
        sde = ss.SDE(lambda t, y: -y, g, noise="general")
        refused(lambda sde=sde: ss.solve(sde, Y, TS, dt=0.1), f"{later} columns", "returned 2 before")


def test_the_leaves_of_a_diffusion_share_their_brownian_motions():
    g = lambda t, y: {"a": torch.ones(3, 2, 2), "b": torch.ones(3, 3)}
    sde = ss.SDE(lambda t, y: y, g, noise="general")
    refused(lambda: ss.solve(sde, TREE, TS, dt=0.1), "(3, 2, 2), (3, 3)", "(*leaf.shape, m) with one m")


def test_a_diffusion_of_another_structure_is_refused():
    sde = ss.SDE(lambda t, y: y, lambda t, y: 0.3)
    refused(lambda: ss.solve(sde, TREE, TS, dt=0.1), "diffusion: returned the structure", "['a', 'b']")


@cases(
    float_of_t=lambda t, y: -y * float(t),
    branch_on_t=lambda t, y: y if t > 0.5 else -y,
    network_of_t=lambda t, y: torch.cat([t[None], y[0]])[None, 1:].expand(3, 2),
)
def test_a_drift_written_for_one_time_is_told_of_the_times_of_each_trajectory(case):
    text = refused(
        lambda: ss.solve(ss.ODE(case), Y, TS),
        "t has shape (3, 1)",
        "ss.batch_time(t, y) gives (batch,)",
        "shared_steps=True",
        kind=Exception,
    )
    assert "FunctionError" not in text
    shared = ss.solve(ss.ODE(case), Y, TS, shared_steps=True)
    assert shared.success.all(), "the remedy that the note names"


def test_errors_of_the_drift_itself_pass_unchanged():
    with pytest.raises(ZeroDivisionError, match="division by zero"):
        ss.solve(ss.ODE(lambda t, y: 1 / 0), Y, TS, dt=0.1)


@cases(
    number=(lambda t, y: 1.0, FunctionError, "f: returned float", "a torch tensor"),
    nothing=(lambda t, y: None, FunctionError, "f: returned NoneType", "a torch tensor"),
    dtype=(lambda t, y: y.double(), FunctionError, "f: returned dtype torch.float64"),
    shape=(lambda t, y: y[:1], FunctionError, "f: returned shape (3, 1)"),
    written_for_a_batch=(lambda t, y: y.mean(1), IndexError, "sees one trajectory", "y of shape (2,)"),
)
def test_a_vectorized_drift_that_returns_the_wrong_thing_is_refused(case):
    f, kind, *fragments = case
    refused(lambda: ss.solve(ss.ODE(f, vectorize=True), Y, TS), *fragments, kind=kind)


def test_a_vectorized_general_diffusion_has_columns():
    sde = ss.SDE(lambda t, y: -y, lambda t, y: y.sum(), noise="general", vectorize=True)
    refused(lambda: ss.solve(sde, Y, TS, dt=0.1), "returned shape () for y of shape (2,)", "(2, m)")


IN_PLACE = {
    "drift clamps": (lambda t, y: -y.clamp_(min=0), lambda t, y: 0.1 * y),
    "drift scales a view": (lambda t, y: -y[:, :1].mul_(2).expand_as(y), lambda t, y: 0.1 * y),
    "diffusion scales": (lambda t, y: -y, lambda t, y: y.mul_(0.1)),
}


@pytest.mark.parametrize("name", IN_PLACE)
def test_a_function_that_writes_into_its_state_is_refused(name):
    with pytest.raises(ss.errors.FunctionError, match=r"wrote into the state.*clone"):
        ss.solve(ss.SDE(*IN_PLACE[name]), torch.ones(3, 2), torch.tensor([0.0, 1.0]), dt=0.1, seed=0)


@pytest.mark.parametrize("how", [{}, {"dt": 0.1, "method": "rk4"}])
def test_a_function_that_returns_the_same_buffer_again_is_refused(how):
    buffer = torch.empty(3, 2)
    with pytest.raises(ss.errors.FunctionError, match="returned before"):
        ss.solve(ss.ODE(lambda t, y: torch.neg(y, out=buffer)), torch.ones(3, 2), torch.tensor([0.0, 1.0]), **how)


@pytest.mark.parametrize("method", ["rosenbrock23", "rodas5p", "kvaerno3", "esdirk54"])
@pytest.mark.parametrize("steps", [{}, {"dt": 0.1}], ids=["own", "fixed"])
def test_a_method_that_differentiates_refuses_a_write_into_the_state_or_a_buffer(method, steps):
    buffer = torch.empty(3, 2)
    for f, advice in ((lambda t, y: y.mul_(-1), "y.clone()"), (lambda t, y: buffer.copy_(-y), "Drop out= and buffers")):
        refused(lambda f=f: ss.solve(ss.ODE(f), Y, TS, method=method, **steps), "f: ", advice)


class Negation(torch.autograd.Function):
    """Without setup_context."""

    @staticmethod
    def forward(ctx, y):
        return -y

    @staticmethod
    def backward(ctx, grad):
        return -grad


UNDIFFERENTIABLE = {
    "numpy": lambda t, y: torch.from_numpy(-y.detach().numpy()),
    "autograd_function": lambda t, y: Negation.apply(y),
}


@pytest.mark.parametrize("method", ["rodas5p", "esdirk54"])
def test_a_function_that_hides_its_derivative_is_told_what_to_write(method):
    with pytest.warns(UserWarning, match=r"no derivative of f leads to y.*without \.detach\(\).*jacobian="):
        ss.solve(ss.ODE(UNDIFFERENTIABLE["numpy"]), Y, TS, method=method)
    sol = ss.solve(ss.ODE(UNDIFFERENTIABLE["autograd_function"]), Y, TS, method=method, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(sol.ys[-1], Y * torch.exp(torch.tensor(-1.0)), rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", UNDIFFERENTIABLE)
def test_a_function_that_torch_func_cannot_differentiate_is_told_what_to_write(name):
    run = lambda y: ss.solve(ss.ODE(UNDIFFERENTIABLE[name]), y, TS, dt=0.1, method="rodas5p").ys
    refused(lambda: torch.func.jacrev(run)(Y), "torch.func", "ss.ODE(f, jacobian=)", kind=RuntimeError)


@pytest.mark.parametrize("method", ["kvaerno3", "esdirk54"])
@pytest.mark.parametrize("name", UNDIFFERENTIABLE)
def test_with_a_jacobian_newtons_method_does_not_differentiate_the_function(name, method):
    given = ss.ODE(UNDIFFERENTIABLE[name], jacobian=lambda t, y: -torch.eye(2).expand(len(y), 2, 2))
    sol = ss.solve(given, Y, TS, method=method, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(sol.ys[-1], Y * torch.exp(torch.tensor(-1.0)), rtol=1e-4, atol=0)


def test_a_derivative_inside_a_function_without_a_graph_is_told_what_to_write():
    slope = lambda t, y: torch.autograd.grad((y * y).sum(), y)[0]
    refused(lambda: ss.solve(ss.ODE(slope), Y, TS), "torch.func.grad", "torch.enable_grad()", kind=RuntimeError)
    exact = lambda t, y: -torch.func.grad(lambda z: (z * z).sum() / 2)(y)
    torch.testing.assert_close(ss.solve(ss.ODE(exact), Y, TS).ys[-1], Y * torch.exp(torch.tensor(-1.0)))


def test_a_constant_tensor_that_nobody_changes_may_be_returned_again():
    slope = torch.full((3, 2), 2.0)
    sol = ss.solve(ss.ODE(lambda t, y: slope), torch.zeros(3, 2), torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(sol.ys[-1], slope)
