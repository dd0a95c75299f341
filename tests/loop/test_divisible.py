"""Functions that give a part of a batch what they give it within the whole, and those that only seem to."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import sdesolve as ss
from sdesolve.divisible import carried, divisible, values_of
from sdesolve.state import state_spec
from sdesolve.system import System

F64 = torch.float64
BATCH = 24
OWN = torch.linspace(1.0, 3.0, BATCH, dtype=F64)[:, None]
STARTS = torch.linspace(-1.0, 2.0, 2 * BATCH, dtype=F64).reshape(BATCH, 2)
BOTH = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=F64)


def asked(problem, y0=None, at=0.5, along=False):
    """Whether every fourth trajectory may go on alone, with tensors of the batch along or not."""
    y0 = torch.linspace(-1.0, 2.0, 2 * BATCH, dtype=F64).reshape(BATCH, 2) if y0 is None else y0
    spec, y = state_spec(y0, True)
    system = System(problem, spec)
    t, lanes = torch.linspace(0.0, at, BATCH, dtype=F64), torch.arange(1, BATCH, 4)
    found = carried(partial(values_of, system), t, y, lanes)
    assert not divisible(partial(values_of, system), t, y, lanes) or found is not None
    return (found is not None) if along else divisible(partial(values_of, system), t, y, lanes)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(3, BATCH), nn.Tanh(), nn.Linear(BATCH, BATCH), nn.Tanh(), nn.Linear(BATCH, 2)
        )
        self.double()

    def forward(self, t, y):
        return self.net(torch.cat([y, t.expand(len(y), 1)], 1))


def written_in_place(t, y):
    out = torch.zeros(len(y), 2, dtype=y.dtype)
    out[:, 0] = y[:, 1] * torch.ones_like(t[:, 0])
    out[:, 1] = -y[:, 0]
    return out


def by_cases(t, y):
    out = torch.zeros_like(y)
    low = y[:, 0] < 0
    out[low] = torch.sin(y[low])
    out[~low] = -y[~low]
    return out


GOOD = {
    "elementwise": lambda t, y: torch.sin(3 * y) * t,
    "a network": Network(),
    "in place": written_in_place,
    "cases": by_cases,
    "constant rows": lambda t, y: torch.tensor([1.0, 2.0], dtype=F64).expand(len(y), 2) + torch.ones(len(y), 1) * y,
    "a constant": lambda t, y: torch.ones_like(y),
    "a matrix": lambda t, y: (y[:, None] @ BOTH).squeeze(1) - torch.einsum("ij,bj->bi", BOTH, y),
    "one trajectory at a time": lambda t, y: torch.func.vmap(lambda x: BOTH @ x)(y),
    "a gradient": lambda t, y: torch.func.grad(lambda x: (x**4).sum())(y),
    "a mean of a tensor": lambda t, y: -OWN.mean() * y - switched(t) * (y @ OWN.reshape(-1, 2).T)[:, :1],
    "pieces": lambda t, y: torch.stack(torch.split(y.reshape(-1, 2), 1, dim=-1), 1)[..., 0].flip(-1),
}


@pytest.mark.parametrize("f", GOOD.values(), ids=GOOD.keys())
def test_functions_of_single_trajectories_are_divisible(f):
    assert asked(ss.ODE(f))


switched = lambda t: torch.relu(t - 1.0)  # 0 at all times that are asked for


class Rates(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("rate", OWN[:, 0].clone())
        self.place = [OWN + 1]
        self.square = nn.Parameter(torch.eye(BATCH, dtype=F64))

    def forward(self, t, y):
        wide = torch.cat([y, y.repeat(1, BATCH // 2 - 1)], 1) @ self.square
        return -self.rate.reshape(-1, 1) * y + switched(t) * torch.stack(self.place).sum(0) * wide[:, :2]


#: these read tensors of the batch row by row
BY_ROWS = {
    "a tensor of the batch": lambda t, y: -OWN * y,
    "rows of a tensor": lambda t, y: -OWN[: len(y)] * y,
    "a tensor's rows, later": lambda t, y: -y + switched(t) * OWN[: len(y)],
    "what is made of it": lambda t, y: -y * torch.sin(2 * OWN[:, 0] + 1).sqrt().unsqueeze(1),
    "a module, and a square matrix that is none of it": Rates(),
    "the start state": lambda t, y: STARTS - y,
    "its value": lambda t, y: OWN.expand(-1, 2),
    "in cases": lambda t, y: torch.where(OWN > 2, torch.sin(y), -OWN * y),
    "in place": lambda t, y: written_in_place(t, y).mul_(OWN),
    "copied": lambda t, y: torch.zeros_like(y).copy_(OWN) + y,
}


@pytest.mark.parametrize("f", BY_ROWS.values(), ids=BY_ROWS.keys())
def test_functions_that_read_their_rows_are_divisible_with_these(f):
    assert not asked(ss.ODE(f)) and asked(ss.ODE(f), along=True)


BAD = {
    "a reversal of a tensor": lambda t, y: -y - switched(t) * OWN.flip(0),
    "a shift, later": lambda t, y: -y - switched(t) * torch.roll(OWN, 1, 0),
    "differences": lambda t, y: -y - switched(t) * torch.cumsum(OWN, 0),
    "the number of trajectories": lambda t, y: -y / len(y),
    "numbers of trajectories": lambda t, y: -torch.arange(1, len(y) + 1, dtype=F64)[:, None] * y,
    "numbers, later": lambda t, y: -y + switched(t) * torch.arange(len(y))[:, None],
    "counted ones, later": lambda t, y: -y + switched(t) * torch.ones_like(y).cumsum(0),
    "the number, later": lambda t, y: -y + switched(t) * len(y),
    "the number's part, later": lambda t, y: -y + switched(t) * torch.full((1,), 1 / len(y), dtype=F64),
    "alternating, later": lambda t, y: -y + switched(t) * torch.tensor([0.0, 1.0]).repeat(len(y) // 2)[:, None],
    "a look at values": lambda t, y: -y if (t < 1).all() else -y * torch.arange(len(y))[:, None],
    "another way for fewer": lambda t, y: -y if len(y) > 10 else -y - switched(t),
    "NumPy": lambda t, y: torch.from_numpy(-y.numpy()),
    "NumPy, later": lambda t, y: -y + torch.from_numpy(switched(t).numpy() * np.arange(len(y))[:, None]),
    "a list": lambda t, y: -y - torch.tensor([[k * max(s[0] - 1, 0)] for k, s in enumerate(t.tolist())], dtype=F64),
    "a product over the batch, later": lambda t, y: -y + switched(t) * (y.T @ OWN).T,
    "noise": lambda t, y: -y + 1e-20 * torch.randn(1, dtype=F64),
}


@pytest.mark.parametrize("f", BAD.values(), ids=BAD.keys())
def test_functions_that_know_their_batch_are_not(f):
    assert not asked(ss.ODE(f)) and not asked(ss.ODE(f), along=True)


def test_a_function_that_refuses_other_batches_is_not():
    def f(t, y):
        if len(y) != BATCH:
            raise ValueError("made for 24")
        return -y

    assert not asked(ss.ODE(f)) and not asked(ss.ODE(f), along=True)


def test_every_function_of_a_problem_is_looked_at():
    good, bad = GOOD["elementwise"], BAD["numbers, later"]
    assert asked(ss.SDE(good, good)) and not asked(ss.SDE(good, bad)) and not asked(ss.SDE(bad, good))
    matrix = lambda t, y: torch.eye(2, dtype=F64).expand(len(y), 2, 2)
    assert asked(ss.SDE(good, matrix, noise="general"))
    assert asked(ss.SplitODE(good, good)) and not asked(ss.SplitODE(good, bad)) and not asked(ss.SplitODE(bad, good))
    assert asked(ss.Semilinear(-1.0, good)) and not asked(ss.Semilinear(-OWN, good))
    assert not asked(ss.Semilinear(lambda t: -1 - 0 * t, good, integral=lambda t: -t + switched(t) * len(t)))
    assert asked(ss.ODE(lambda t, y: y.sin(), vectorize=True))
    tree = {"x": torch.ones(BATCH, 2, dtype=F64), "v": torch.ones(BATCH, dtype=F64)}
    assert asked(ss.ODE(lambda t, y: {"x": y["x"] * t[:, None], "v": -y["v"]}), tree)
    assert not asked(ss.ODE(lambda t, y: {"x": y["x"], "v": -y["v"] * OWN[: len(t), 0]}), tree)
