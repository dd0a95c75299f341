"""Problems whose right-hand side is a stiff part and another one."""

import pytest
import torch
from torch import nn

import sdesolve as ss

F64 = torch.float64
TS = torch.tensor([0.0, 0.5], dtype=F64)


def ends(problem, y0, **options):
    return ss.solve(problem, y0, TS, **options).ys


class Pull(nn.Module):
    def __init__(self):
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(30.0, dtype=F64))

    def forward(self, t, y):
        return -self.rate * y


class Subclass(ss.SplitODE):
    def stiff(self, t, y):
        return -30.0 * y

    def nonstiff(self, t, y):
        return torch.cos(t) * torch.ones_like(y)


def push(t, y):
    return torch.cos(t) * torch.ones_like(y)


def test_modules_functions_and_subclasses_are_the_same_problem():
    y0 = torch.tensor([[1.0], [0.2]], dtype=F64)
    exact = ends(ss.ODE(lambda t, y: -30 * y + push(t, y)), y0, rtol=1e-10, atol=1e-12)
    for problem in (ss.SplitODE(Pull(), push), ss.SplitODE(lambda t, y: -30 * y, push), Subclass()):
        for options in ({}, {"method": "tsit5"}, {"method": "kvaerno3"}, {"dt": 0.01}):
            assert (ends(problem, y0, **options)[-1] - exact[-1]).abs().max() < 1e-4


def test_parameters_are_registered_once_and_have_gradients():
    problem = ss.SplitODE(Pull(), push)
    assert list(problem.state_dict()) == ["stiff.rate"]
    ends(problem, torch.ones(1, 1, dtype=F64), dt=0.1).sum().backward()
    assert problem.stiff.rate.grad.abs() > 0


def test_pytrees_and_functions_of_one_trajectory_are_taken():
    y0 = {"a": torch.ones(3, 2, dtype=F64), "b": torch.zeros(3, dtype=F64)}
    stiff = lambda t, y: {"a": -50 * y["a"], "b": -y["b"]}
    other = lambda t, y: {"a": y["b"] * torch.ones(2, dtype=F64), "b": y["a"].sum()}
    mapped = ends(ss.SplitODE(stiff, other, vectorize=True), y0)
    batched = lambda t, y: {"a": y["b"][:, None].expand(-1, 2), "b": y["a"].sum(-1)}
    plain = ends(ss.SplitODE(stiff, batched), y0)
    assert torch.allclose(mapped["a"], plain["a"], rtol=1e-9) and torch.allclose(mapped["b"], plain["b"], rtol=1e-9)


@pytest.mark.parametrize("method", ["kencarp4", "tsit5"])
def test_mistakes_are_said_of_the_part_that_makes_them(method):
    good, short = lambda t, y: -y, lambda t, y: y[:, :1]
    y0 = torch.ones(2, 3, dtype=F64)
    with pytest.raises(ValueError, match=r"^stiff: returned shape \(2, 1\)"):
        ends(ss.SplitODE(short, good), y0, method=method)
    with pytest.raises(ValueError, match=r"^nonstiff: returned shape \(2, 1\)"):
        ends(ss.SplitODE(good, short), y0, method=method)


def test_a_missing_part_is_named():
    with pytest.raises(TypeError, match="nonstiff: got nothing"):
        ss.SplitODE(push)
    with pytest.raises(TypeError, match="stiff: got float"):
        ss.SplitODE(1.0, push)


@pytest.mark.parametrize("method", ["kencarp4", "tsit5"])
def test_a_part_that_is_replaced_is_the_one_that_is_solved(method):
    y0 = torch.ones(1, 1, dtype=F64)
    for name, part in (("stiff", Pull()), ("nonstiff", push)):
        problem = ss.SplitODE(lambda t, y: -y, lambda t, y: 0 * y)
        setattr(problem, name, part)
        wanted = ss.SplitODE(problem.stiff, problem.nonstiff)
        assert torch.equal(ends(problem, y0, method=method), ends(wanted, y0, method=method))
