"""Dense output: on each accepted step a polynomial,  y(t0 + theta h) = y0 + sum_j c_j theta^j,  theta in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sdesolve.errors import message
from sdesolve.state import StateSpec


@dataclass(frozen=True)
class DenseOutput:
    """A piecewise polynomial a trajectory.

    starts, lengths : (steps, lanes), in the order of the solve, rows of a trajectory's own steps first and rows that
    are not its own behind (with infinite starts), in float64. states : (steps, ...). powers : coefficients of theta,
    theta^2, ..., each (steps, ...). first, last : (lanes,), times. Lanes are trajectories, or 1 where all share the
    steps.
    """

    spec: StateSpec
    direction: float
    starts: Tensor
    lengths: Tensor
    states: Tensor
    powers: tuple[Tensor, ...]
    first: Tensor
    last: Tensor

    def __call__(self, t: float | Tensor) -> Any:
        try:
            query = torch.as_tensor(t, dtype=self.starts.dtype, device=self.starts.device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(message("t", repr(t), "a number or a tensor (Q,) of times")) from error
        if query.ndim > 1 or query.numel() == 0:
            raise ValueError(message("t", f"shape {tuple(query.shape)}", "a number or (Q,) with Q >= 1"))
        times = query.reshape(-1)
        low, high = torch.minimum(self.first, self.last).max(), torch.maximum(self.first, self.last).min()
        # a time may have been rounded to the state's precision
        slack = 16 * torch.finfo(self.spec.time_dtype).eps * torch.maximum(low.abs(), high.abs())
        if ((times < low - slack) | (times > high + slack) | times.isnan()).any():
            raise ValueError(message("t", f"{query.tolist()}", f"times from {low.item()} to {high.item()}"))
        times = times.clamp(low, high)
        found = torch.stack([self._at(time) for time in times])
        return self.spec.unravel(found[0] if query.ndim == 0 else found, lead=query.ndim)

    def _at(self, time: Tensor) -> Tensor:
        ahead = self.direction * self.starts.T.contiguous()
        row = torch.searchsorted(ahead, (self.direction * time).expand(len(ahead), 1).contiguous(), right=True)
        row = (row[:, 0] - 1).clamp(min=0)
        start, length = (table.gather(0, row[None])[0] for table in (self.starts, self.lengths))
        # behind the last accepted step of a trajectory that failed there is nothing to interpolate
        slack = 16 * torch.finfo(self.spec.time_dtype).eps * (self.last - self.first).abs()
        beyond = ~(self.direction * (time - start - length) <= slack) | ~torch.isfinite(start)
        theta = torch.where(beyond, 0.0, (time - start) / length).to(self.spec.time_dtype)
        if len(row) == 1 or not self.spec.batched:
            pick = lambda x: x[row[0]]
            theta, beyond = theta[0], beyond[0]
        else:
            lanes = torch.arange(len(row), device=row.device)
            pick = lambda x: x[row, lanes]
            theta, beyond = self.spec.expand(theta), self.spec.expand(beyond)
        found = polynomial(theta, pick(self.states), tuple(map(pick, self.powers)))
        return torch.where(beyond, torch.nan, found)


def polynomial(theta: Tensor, y: Tensor, powers: tuple[Tensor, ...]) -> Tensor:
    """y + sum_j c_j theta^j, j = 1, 2, ..."""
    *lower, total = (y, *powers)
    for coefficient in reversed(lower):
        total = torch.addcmul(coefficient, total, theta)
    return total


class AtMany(torch.autograd.Function):
    """The polynomial at many places: theta (n, lanes, 1, ...), y and the coefficients (lanes, ...), all with the same
    dimensions behind n. One node of the graph, and few passes over its values."""

    @staticmethod
    def forward(ctx: Any, theta: Tensor, *coefficients: Tensor) -> Tensor:
        ctx.save_for_backward(theta)
        ctx.count = len(coefficients)
        return AtMany.values(theta, coefficients)

    @staticmethod
    def values(theta: Tensor, coefficients: Sequence[Tensor]) -> Tensor:
        """Without a graph."""
        *lower, total = coefficients
        for k, coefficient in enumerate(reversed(lower)):
            total = torch.addcmul(coefficient, total, theta, out=total if k else None)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (theta,) = ctx.saved_tensors
        powers = torch.stack([theta**k for k in range(ctx.count)]).to(grad.dtype)  # (p, n, lanes, 1, ...)
        if theta[0].numel() == 1:
            found = powers.reshape(ctx.count, -1) @ grad.reshape(len(grad), -1)
            return None, *found.reshape(-1, *grad.shape[1:]).unbind()
        return None, *((power * grad).sum(0) for power in powers)


def hermite_weights(nodes: Sequence[float], t: Any) -> list[tuple[Any, Any]]:
    """What value and slope at each node weigh at t, a tensor or an array, in the Hermite interpolant, which is of
    degree 2 m - 1 for m nodes (Stoer & Bulirsch 2002, 2.1.5)."""
    found = []
    for k, node in enumerate(nodes):
        others = [x for j, x in enumerate(nodes) if j != k]
        basis, slope = 1.0, 0.0
        for x in others:
            basis, slope = basis * (t - x) / (node - x), slope + 1 / (node - x)
        found.append(((1 - 2 * slope * (t - node)) * basis**2, (t - node) * basis**2))
    return found


def dense_output(
    spec: StateSpec,
    direction: float,
    first: Tensor,
    last: Tensor,
    times: list[tuple[Tensor, Tensor]],
    states: list[Tensor],
    powers: list[tuple[Tensor, ...]],
    taken: Tensor | None,
) -> DenseOutput:
    """Gather the steps of a solve; ``times`` are pairs (t0, h), each (lanes,); ``taken``, (steps, batch), says
    whose they are."""
    starts = torch.stack([t0 for t0, _ in times])
    lengths = torch.stack([h for _, h in times])
    ys = torch.stack(states)
    coefficients = tuple(torch.stack(list(power)) for power in zip(*powers, strict=True))
    if taken is None or bool(taken.all()):
        return DenseOutput(spec, direction, starts, lengths, ys, coefficients, first, last)
    lanes = taken.shape[1]
    starts, lengths = starts.expand(-1, lanes), lengths.expand(-1, lanes)
    order = torch.sort((~taken).to(torch.int8), dim=0, stable=True).indices
    mine = taken.gather(0, order)
    starts = torch.where(mine, starts.gather(0, order), direction * torch.inf)
    lengths = torch.where(mine, lengths.gather(0, order), 1.0)
    if spec.batched:
        column = torch.arange(lanes, device=order.device)
        ys, coefficients = ys[order, column], tuple(c[order, column] for c in coefficients)
    else:
        ys, coefficients = ys[order[:, 0]], tuple(c[order[:, 0]] for c in coefficients)
    return DenseOutput(spec, direction, starts, lengths, ys, coefficients, first, last)
