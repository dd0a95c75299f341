"""Any linear equation with noise that does not depend on the state."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sdesolve.errors import message

from ..process import Process
from .quadrature import Nodes, values

__all__ = ["Affine"]

Rate = Callable[[Tensor], Tensor]


class Affine(Process):
    """dx = (a(t) x + b(t)) dt + g(t) dw.

    ::

        alpha(t) = exp(int_0^t a),      shift(t)   = int_0^t alpha(t)/alpha(s) b(s) ds
                                        sigma(t)^2 = int_0^t (alpha(t)/alpha(s))^2 g(s)^2 ds

    Parameters
    ----------
    a, b, g : functions of t, elementwise and smooth on [0, end]; g is not zero throughout. b : default None, 0.
    alpha, shift, sigma : what is known in closed form, as functions of t. Default: by Gauss-Legendre quadrature, see
        `diffusion.processes.quadrature`.
    end : the time of pure noise, positive; default 1. Nothing says that data are forgotten by then: see `prior`.

    Raises
    ------
    TypeError : what is given cannot be called. ValueError : end is not positive and finite; a shift
        without b.

    Examples
    --------
    >>> ou = Affine(lambda t: -2.0 + 0 * t, lambda t: torch.cos(t), lambda t: 1.0 + t, end=3.0)
    >>> float(ou.alpha(torch.tensor(0.5)))  # exp(-1)
    0.3678794503211975
    """

    def __init__(
        self,
        a: Rate,
        b: Rate | None,
        g: Rate,
        *,
        alpha: Rate | None = None,
        shift: Rate | None = None,
        sigma: Rate | None = None,
        end: float = 1.0,
    ) -> None:
        given = {"a": a, "b": b, "g": g, "alpha": alpha, "shift": shift, "sigma": sigma}
        for name, function in given.items():
            if not (callable(function) or (function is None and name not in "ag")):
                raise TypeError(message(name, type(function).__name__, "a function of t"))
        if not 0 < end < math.inf:
            raise ValueError(message("end", repr(end), "a positive, finite time"))
        if b is None and shift is not None:
            raise ValueError(message("shift", "a function beside b=None", "None there", "Give b, whose shift it is."))
        self._a, self._b, self._g, self.end = a, b, g, end
        self._alpha, self._shift, self._sigma = alpha, shift, sigma

    @property
    def shifted(self) -> bool:
        return self._b is not None

    def alpha(self, t: Tensor) -> Tensor:
        if self._alpha is not None:
            return self._alpha(t)
        nodes = Nodes(t)
        return nodes.total(values(self._a, nodes.times)).exp().to(t.dtype)

    def shift(self, t: Tensor) -> Tensor:
        if self._shift is not None:
            return self._shift(t)
        if self._b is None:
            return torch.zeros_like(t)
        nodes = Nodes(t)
        return nodes.total(self._left(nodes) * values(self._b, nodes.times)).to(t.dtype)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(self.variance(t)) if self._sigma is None else self._sigma(t)

    def variance(self, t: Tensor) -> Tensor:
        if self._sigma is not None:
            return self._sigma(t) ** 2
        nodes = Nodes(t)
        return nodes.total((self._left(nodes) * values(self._g, nodes.times)) ** 2).to(t.dtype)

    def alpha_rate(self, t: Tensor) -> Tensor:
        return self.drift_rate(t) * self.alpha(t)

    def variance_rate(self, t: Tensor) -> Tensor:
        return self.diffusion_rate(t) ** 2 + 2 * self.drift_rate(t) * self.variance(t)

    def shift_rate(self, t: Tensor) -> Tensor:
        return self.drift_shift(t) + self.drift_rate(t) * self.shift(t)

    def drift_rate(self, t: Tensor) -> Tensor:
        return values(self._a, t)

    def drift_shift(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t) if self._b is None else values(self._b, t)

    def diffusion_rate(self, t: Tensor) -> Tensor:
        return values(self._g, t)

    def _left(self, nodes: Nodes) -> Tensor:
        """alpha(t) / alpha(s) at the nodes s."""
        rate = values(self._a, nodes.times)
        return torch.exp(nodes.total(rate)[..., None, None] - nodes.up_to(rate))
