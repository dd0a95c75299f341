"""What a Semilinear problem is given wrongly is named, with what is accepted."""

import pytest
import torch

import sdesolve as ss
from sdesolve.errors import FunctionError
from tests.errors.test_functions import refused

Y, TS = torch.ones(3, 2), torch.tensor([0.0, 1.0])
TREE = {"a": torch.ones(3, 2), "b": torch.ones(3)}


def solve(problem, y0=Y, **how):
    return ss.solve(problem, y0, TS, **{"dt": 0.5, **({} if problem.noise is None else {"seed": 0}), **how})


@pytest.mark.parametrize(
    ("given", "fragments"),
    [
        ({}, ("A: got nothing", "ss.ODE or ss.SDE")),
        ({"A": "fast"}, ("A: got 'fast', a str", "a number, a tensor or a function of t alone")),
        ({"A": True}, ("A: got True, a bool",)),
        ({"A": 1.0, "f": 2.0}, ("f: got 2.0, a float", "a function (t, y) -> tensor, or None")),
        ({"A": 1.0, "f": torch.ones(2)}, ("f: got",)),
        ({"A": 1.0, "g": "loud"}, ("g: got 'loud', a str",)),
        ({"A": 1.0, "g": {"a": None, "b": "x"}}, ("g: got",)),
        ({"A": lambda t: t, "integral": 3.0}, ("integral: got 3.0, a float", "t -> int_0^t A")),
    ],
    ids=lambda case: "-".join(case) if isinstance(case, dict) else "",
)
def test_arguments_of_another_kind_are_refused(given, fragments):
    refused(lambda: ss.Semilinear(**given), *fragments, kind=TypeError)


def test_an_integral_beside_a_constant_is_refused():
    refused(lambda: ss.Semilinear(1.0, integral=lambda t: t), "integral: got", "constant A", kind=ValueError)


def test_noise_that_is_not_diagonal_is_refused():
    with pytest.raises(TypeError, match="noise"):
        ss.Semilinear(-1.0, None, 1.0, noise="general")


METHODS = ["exponential_euler", "exponential_heun", "tsit5", "sosra"]


@pytest.mark.parametrize(
    ("A", "g", "fragments"),
    [
        (torch.ones(3), None, ("A: has shape (3,) for y of shape (3, 2)", "matrices")),
        (torch.ones(2, 2), None, ("A: has shape (2, 2)",)),
        (lambda t: torch.ones(3, 2, 2), None, ("A: has shape (3, 2, 2)",)),
        (lambda t: torch.ones(2, dtype=torch.float64), None, ("A: has dtype torch.float64", "torch.float32")),
        (lambda t: "x", None, ("A: gave str",)),
        (-1.0, lambda t: torch.ones(3, 2, 2), ("g: has shape (3, 2, 2) for y of shape (3, 2)", "noise='general'")),
        (-1.0, torch.ones(2, 3), ("g: has shape (2, 3)",)),
        (-1.0, lambda t: torch.ones(2, dtype=torch.float64), ("g: has dtype torch.float64",)),
    ],
)
@pytest.mark.parametrize("name", METHODS)
def test_rates_and_noise_of_the_wrong_shape_or_dtype_are_refused(name, A, g, fragments):
    if (name == "tsit5" and g is not None) or (name == "sosra" and g is None):
        return
    refused(lambda: solve(ss.Semilinear(A, lambda t, y: y, g), method=name), *fragments)


@pytest.mark.parametrize("name", ["exponential_heun", "sosra"])
def test_g_that_wants_the_state_is_told_that_it_is_a_function_of_time(name):
    problem = ss.Semilinear(-1.0, None, lambda t, y: torch.ones_like(y))
    refused(lambda: solve(problem, method=name), "g of ss.Semilinear is a function of t alone", kind=TypeError)


@pytest.mark.parametrize("name", ["exponential_heun", "tsit5"])
def test_f_is_checked_before_it_is_added_to_what_would_make_it_fit(name):
    """A y + f has y's shape for an f that broadcasts."""
    refused(lambda: solve(ss.Semilinear(-1.0, lambda t, y: y[:, :1]), method=name), "f: returned shape (3, 1)")
    refused(lambda: solve(ss.Semilinear(-1.0, lambda t, y: 1.0), method=name), "f: returned float")


def test_a_pytree_of_rates_has_the_structure_of_the_state():
    refused(lambda: solve(ss.Semilinear({"a": -1.0}), TREE), "A: has the structure", "that of y0")
    refused(
        lambda: solve(ss.Semilinear({"a": -1.0, "b": torch.ones(2)}), TREE), "A: has shape (2,) for y of shape (3,)"
    )


def test_check_problem_takes_semilinear_problems():
    good = ss.Semilinear(-1.0, lambda t, y: torch.sin(y), lambda t: 1 + t)
    ss.testing.check_problem(good, Y)
    bad = ss.Semilinear(-1.0, lambda t, y: y + y.sum(0), 1.0)
    with pytest.raises(ValueError, match="f: "):
        ss.testing.check_problem(bad, Y)
    with pytest.raises(FunctionError, match="g: returned NaN"):
        ss.testing.check_problem(ss.Semilinear(-1.0, None, lambda t: t / 0), Y)


def test_what_is_no_problem_is_told_what_problems_there_are():
    with pytest.raises(TypeError, match="Semilinear"):
        ss.solve(lambda t, y: y, Y, TS)
