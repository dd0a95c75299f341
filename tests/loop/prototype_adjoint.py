"""A prototype for the loop's contract: a backward solve inside an autograd.Function, each solve compiled or not."""

from typing import Any

import torch
from torch import Tensor

import sdesolve as ss


class Augmented(ss.ODE):
    """(y, a, dL/dp): dy = f, da = -a df/dy, and the integral of -a df/dp, for f(p, t, y)."""

    def __init__(self, f: Any, parameter: Tensor) -> None:
        super().__init__(batched=False)
        self.function, self.parameter = f, parameter

    def f(self, t: Tensor, state: Any) -> Any:
        y, a, _ = state
        value, pull = torch.func.vjp(lambda z, p: self.function(p, t, z), y, self.parameter)
        by_y, by_p = pull(a)
        return value, -by_y, -by_p


class ByBackwardSolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, f: Any, ts: Tensor, compile: bool, y0: Tensor, p: Tensor) -> Tensor:
        ctx.settings = (f, ts, compile)
        problem = ss.ODE(lambda t, y: f(p.detach(), t, y), batched=False)
        ys = ss.solve(problem, y0.detach(), ts, rtol=1e-9, atol=1e-9, compile=compile).ys
        ctx.save_for_backward(ys[-1], p)
        return ys[-1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        (f, ts, compile), (y1, p) = ctx.settings, ctx.saved_tensors
        with torch.no_grad():
            state = (y1, grad, torch.zeros_like(p))
            back = ss.solve(Augmented(f, p.detach()), state, ts.flip(0), rtol=1e-9, atol=1e-9, compile=compile)
        _, a, by_p = back.ys
        return None, None, None, a[-1], by_p[-1]
