"""A rising function of t on [0, 1] through values at equally spaced times."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Monotone"]


class Monotone:
    """The cubic Hermite spline through ``values[i]`` at t = i / N that rises wherever the values do.

    Slopes are those of the parabolas through three neighbouring values, kept between 0 and three times the lesser
    secant, which is enough to rise. Continuously differentiable; of error O(N^-3), and 0 for a quadratic, where nothing
    had to be kept. Elementwise in t, which is held to [0, 1]; reckoned in float64.

    Parameters
    ----------
    values : ``(N + 1,)``, strictly rising, N >= 2.

    References
    ----------
    Fritsch & Carlson (1980). Monotone piecewise cubic interpolation. SIAM J. Numer. Anal. 17:238.
    """

    def __init__(self, values: Tensor) -> None:
        self.values = values.double()
        self.steps = len(values) - 1
        secants = self.values.diff()
        left, right = secants[:-1], secants[1:]
        first, last = _end(secants[0], secants[1]), _end(secants[-1], secants[-2])
        inside = (0.5 * (left + right)).minimum(3 * left.minimum(right))
        self.slopes = torch.cat([first[None], inside, last[None]])

    def __call__(self, t: Tensor) -> Tensor:
        """The value at t, of t's shape and dtype."""
        u, low, high, start, end = self._pieces(t)
        rise, rest = u**2 * (3 - 2 * u), u * (1 - u)
        return (low + rise * (high - low) + rest * ((1 - u) * start - u * end)).to(t.dtype)

    def rate(self, t: Tensor) -> Tensor:
        """d value / dt."""
        u, low, high, start, end = self._pieces(t)
        bend = 6 * u * (1 - u) * (high - low) + (1 - u) * (1 - 3 * u) * start + u * (3 * u - 2) * end
        return (self.steps * bend).to(t.dtype)

    def _pieces(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Fraction u of a piece, the values at its ends and the slopes there, by u."""
        place = self.steps * t.double().clamp(0, 1)
        k = place.detach().floor().clamp(max=self.steps - 1).long()
        read = lambda table, at: table.to(t.device)[at.reshape(-1)].reshape(t.shape)  # at a 0-d place, too
        return place - k, *(read(table, at) for table in (self.values, self.slopes) for at in (k, k + 1))


def _end(secant: Tensor, following: Tensor) -> Tensor:
    return (1.5 * secant - 0.5 * following).clamp(min=0.0).minimum(3 * secant)
