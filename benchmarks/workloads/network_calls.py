"""What a solve with networks has to spend at least: their calls alone, without and with gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from benchmarks.workload import Contender


def alone(functions: Sequence[Callable[[Tensor], Tensor]], y: Tensor, plain: int, pulled: int) -> Tensor:
    """Each function called ``plain`` times without a graph; and ``pulled`` times with one, followed by the products of
    vectors with its derivatives by y and by every parameter."""
    out = y
    with torch.no_grad():
        for _ in range(plain):
            for function in functions:
                out = function(y)
    for _ in range(pulled):
        x = y.detach().requires_grad_()
        outs = [function(x) for function in functions]
        leaves = [p for function in functions for p in function.parameters()]  # type: ignore[attr-defined]
        torch.autograd.grad(outs, [x, *leaves], [y] * len(outs))
    return out


def floor(way: str, functions: Sequence[Callable[[Tensor], Tensor]], y: Tensor, plain: int, pulled: int) -> Contender:
    """The calls of a way, as a contender."""
    name = f"{(plain + pulled) * len(functions)} calls of {way} alone"
    return Contender(name, "floor", partial(alone, functions, y, plain, pulled))
