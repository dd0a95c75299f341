"""Data sets in the plane whose density is known, and with it the entropy, which no model's likelihood can beat.

Five of those that Grathwohl et al. (2019) draw from in FFJORD, of the same sizes:

===================  ==============================================================  ==============
set                  law                                                             entropy (nats)
===================  ==============================================================  ==============
`eight_gaussians`    eight normals on a circle                                       2.832
`two_moons`          two half circles, each point plus a normal                      2.394
`circles`            two circles, each point plus a normal                           3.268
`checkerboard`       uniform on eight squares                                        3.466 = ln 32
`pinwheel`           five arms: normals, twisted about the origin                    2.318
===================  ==============================================================  ==============

References
----------
Grathwohl, Chen, Bettencourt, Sutskever & Duvenaud (2019). FFJORD: free-form continuous dynamics for scalable reversible
generative models. ICLR. Section 4.1.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from sdesolve.errors import message

from .exact import GaussianMixture
from .prior import trajectory_normals

__all__ = [
    "TOYS",
    "Arcs",
    "Checkerboard",
    "GaussianRing",
    "Pinwheel",
    "Toy",
    "checkerboard",
    "circles",
    "eight_gaussians",
    "pinwheel",
    "two_moons",
]

CELLS = 160
"""A side, of the grid by which entropies are found; the finest of the shapes below is then some three cells wide, and
the midpoint rule right to 1e-5 or better, as it converges exponentially for densities that vanish smoothly."""


class Toy(ABC):
    """A law in the plane: draws, its density, its entropy.

    A subclass says how a row of standard normals becomes a point (`place`), how many it takes (`channels`), and the
    half width of a square about the origin that holds all but 1e-10 of the law (`reach`).
    """

    channels: int
    reach: float

    @abstractmethod
    def place(self, z: Tensor) -> Tensor:
        """Points ``(n, 2)`` of standard normals ``(n, channels)``."""

    @abstractmethod
    def density(self, x: Tensor) -> Tensor:
        """log p ``(n,)`` at x ``(n, 2)``, both in float64."""

    def sample(
        self,
        n: int,
        *,
        seed: int,
        paths: Sequence[int] | Tensor | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """n independent draws, ``(n, 2)``; draw i depends on seed and paths[i] (default i) alone.

        dtype : default torch's. Whatever it is, the draws are made in float64 and rounded.
        """
        shape, wide = (n, self.channels), torch.float64
        z = trajectory_normals(seed, "toy", shape, paths=paths, dtype=wide, device=device)
        return self.place(z).to(dtype or torch.get_default_dtype())

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density in nats, ``(n,)`` in x's dtype, at x of shape ``(n, 2)``.

        Raises
        ------
        ValueError : x of another shape.
        """
        if x.ndim != 2 or x.shape[1] != 2:
            raise ValueError(message("x", f"shape {tuple(x.shape)}", "points in the plane, (n, 2)"))
        return self.density(x.double()).to(x.dtype)

    @cached_property
    def entropy(self) -> float:
        """-int p log p in nats, by the midpoint rule."""
        width = 2 * self.reach / CELLS
        middles = width * (torch.arange(CELLS, dtype=torch.float64) + 0.5) - self.reach
        found = 0.0
        for points in torch.cartesian_prod(middles, middles).chunk(16):
            p = self.density(points).exp()
            found -= width**2 * float(torch.xlogy(p, p).sum())
        return found

    def __repr__(self) -> str:
        return type(self).__name__


class GaussianRing(Toy):
    """`count` normals of standard deviation `scale`, evenly on a circle of that `radius`."""

    channels = 3

    def __init__(self, count: int, radius: float, scale: float) -> None:
        angles = 2 * math.pi / count * torch.arange(count, dtype=torch.float64)
        means = radius * torch.stack([angles.cos(), angles.sin()], 1)
        self.count, self.scale, self.reach = count, scale, radius + 8 * scale
        self.mixture = GaussianMixture(means, scale**2 * torch.eye(2, dtype=torch.float64).expand(count, 2, 2))

    def place(self, z: Tensor) -> Tensor:
        return self.mixture.means.to(z)[_choice(z[:, 2], self.count)] + self.scale * z[:, :2]

    def density(self, x: Tensor) -> Tensor:
        return self.mixture.to(x.device).log_prob(x)


class Arcs(Toy):
    """Points evenly on arcs of circles, each plus a normal of standard deviation `scale`.

    ::

        p(x) = mean_k 1/sweep int_0^sweep N(x; c_k + R_k (cos, sin)(first_k + u), scale^2 I) du

    by `NODES` Gauss-Legendre nodes, which resolve the integrand to rounding where R |x - c| < 2500 scale^2.

    Parameters
    ----------
    centres : ``(K, 2)``. radii, firsts : ``(K,)``; each arc begins at the angle first and covers `sweep`.
    """

    channels = 4
    NODES = 256

    def __init__(
        self,
        centres: Sequence[tuple[float, float]],
        radii: Sequence[float],
        firsts: Sequence[float],
        sweep: float,
        scale: float,
    ) -> None:
        self.centres, self.radii, self.firsts = (
            torch.tensor(part, dtype=torch.float64) for part in (centres, radii, firsts)
        )
        self.sweep, self.scale = sweep, scale
        self.reach = float((self.centres.abs().amax(1) + self.radii).max()) + 8 * scale

    def place(self, z: Tensor) -> Tensor:
        k = _choice(z[:, 2], len(self.radii))
        return self._on(k, self.sweep * torch.special.ndtr(z[:, 3])) + self.scale * z[:, :2]

    def density(self, x: Tensor) -> Tensor:
        nodes, weights = (torch.from_numpy(part).to(x) for part in np.polynomial.legendre.leggauss(self.NODES))
        arcs = torch.arange(len(self.radii), device=x.device)[:, None].expand(-1, self.NODES)
        on = self._on(arcs, 0.5 * self.sweep * (1 + nodes))
        squares = (x[:, None, None] - on).square().sum(-1)
        log_weights = torch.log(0.5 * weights / len(self.radii)) - math.log(2 * math.pi * self.scale**2)
        return torch.logsumexp((log_weights - 0.5 * squares / self.scale**2).flatten(1), 1)

    def _on(self, k: Tensor, u: Tensor) -> Tensor:
        """Where the arcs k are at u in [0, sweep]."""
        angle = self.firsts.to(u)[k] + u
        return self.centres.to(u)[k] + self.radii.to(u)[k][..., None] * torch.stack([angle.cos(), angle.sin()], -1)


class Checkerboard(Toy):
    """Uniform on those squares of side 2 in [-4, 4]^2 for which floor(x/2) + floor(y/2) is even."""

    channels = 3
    reach = 4.0

    def place(self, z: Tensor) -> Tensor:
        u = torch.special.ndtr(z)
        column, inside = (4 * u[:, 0]).floor(), 4 * u[:, 0] % 1
        row = 2 * _choice(z[:, 2], 2) + column % 2
        return 2 * torch.stack([column + inside, row + u[:, 1]], 1) - 4

    def density(self, x: Tensor) -> Tensor:
        filled = (torch.floor(x / 2).sum(1) % 2 == 0) & (x.abs() < 4).all(1)
        return torch.where(filled, x.new_tensor(-math.log(32)), -math.inf)


class Pinwheel(Toy):
    """Normals along an axis, twisted about the origin the more the farther out, in `arms` directions.

    ::

        f ~ N((1, 0), diag(0.3^2, 0.1^2)),      x = 2 R(-2 pi k / arms - twist exp(f_0)) f,      R(a) turns by a

    With x/2 = r (cos phi, sin phi) and f = r (cos psi, sin psi), the preimages of x are the solutions psi of

    ::

        g(psi) = psi - twist exp(r cos psi) = phi + 2 pi j / arms,      j any integer
        |dx/df| = 4 |g'(psi)|,      g'(psi) = 1 + twist r sin psi exp(r cos psi) = 1 + twist f_1 exp(f_0)

    and p(x) is the sum of N(f) / (4 arms |g'|) over them. g' has the sign + but for an interval of psi at large r.
    """

    channels = 3
    SPREAD = (0.3, 0.1)
    TWIST = 0.25
    BISECTIONS = 36

    def __init__(self, arms: int = 5) -> None:
        self.arms, self.reach = arms, 2 * (1 + 6.5 * self.SPREAD[0])

    def place(self, z: Tensor) -> Tensor:
        f = z[:, :2] * z.new_tensor(self.SPREAD) + z.new_tensor([1.0, 0.0])
        angle = 2 * math.pi / self.arms * _choice(z[:, 2], self.arms).to(z) + self.TWIST * f[:, 0].exp()
        cosine, sine = angle.cos(), angle.sin()
        return 2 * torch.stack([f[:, 0] * cosine + f[:, 1] * sine, f[:, 1] * cosine - f[:, 0] * sine], 1)

    def density(self, x: Tensor) -> Tensor:
        r, phi = 0.5 * torch.linalg.vector_norm(x, dim=1), torch.atan2(x[:, 1], x[:, 0])
        ends = self._pieces(r)
        low, high = ends[:-1, None], ends[1:, None]
        # -pi - twist exp(r) < g < pi; beyond f_0 = 5, 13 standard deviations off, nothing is looked for
        lowest = (2 * math.pi + self.TWIST * float(r.detach().max().clamp(max=5).exp())) * self.arms / (2 * math.pi)
        j = torch.arange(-math.ceil(lowest), self.arms + 1, dtype=x.dtype, device=x.device)
        target = phi + 2 * math.pi / self.arms * j[:, None]
        above = self._g(r, low) > target
        found = above != (self._g(r, high) > target)
        psi = self._root(lambda psi: (self._g(r, psi) > target) == above, low, high)
        # one step of Newton's, for the last digits and for gradients
        slope = torch.where(found, self._slope(r, psi), 1.0)
        psi = psi - torch.where(found, self._g(r, psi) - target, 0.0) / slope
        z = [(r * psi.cos() - 1) / self.SPREAD[0], r * psi.sin() / self.SPREAD[1]]
        log_normal = -0.5 * (z[0] ** 2 + z[1] ** 2) - math.log(2 * math.pi * self.SPREAD[0] * self.SPREAD[1])
        log_slope = torch.log(torch.where(found, self._slope(r, psi).abs(), 1.0))
        terms = torch.where(found, log_normal - log_slope - math.log(4 * self.arms), -math.inf)
        return torch.logsumexp(terms.flatten(0, 1), 0)

    def _g(self, r: Tensor, psi: Tensor) -> Tensor:
        return psi - self.TWIST * torch.exp(r * psi.cos())

    def _slope(self, r: Tensor, psi: Tensor) -> Tensor:
        return 1 + self.TWIST * r * psi.sin() * torch.exp(r * psi.cos())

    def _pieces(self, r: Tensor) -> Tensor:
        """Ends of the three intervals of (-pi, pi) on which g is monotone, ``(4, n)``; the middle one, where g falls,
        is empty for small r."""
        # g' is least where cos psi = r sin^2 psi
        least = -torch.acos(2 * r / (1 + torch.sqrt(1 + 4 * r**2)))
        end = torch.full_like(r, math.pi)
        first = self._root(lambda psi: self._slope(r, psi) > 0, -end, least)
        last = self._root(lambda psi: self._slope(r, psi) < 0, least, torch.zeros_like(r))
        none = self._slope(r, least) >= 0
        return torch.stack([-end, torch.where(none, least, first), torch.where(none, least, last), end])

    @torch.no_grad()
    def _root(self, holds: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Tensor:
        """Where `holds`, true at low, ceases to hold, by bisection."""
        for _ in range(self.BISECTIONS):
            middle = 0.5 * (low + high)
            left = holds(middle)
            low, high = torch.where(left, middle, low), torch.where(left, high, middle)
        return 0.5 * (low + high)


def _choice(z: Tensor, count: int) -> Tensor:
    """0, ..., count - 1 with equal probability, of standard normals."""
    return (count * torch.special.ndtr(z)).long().clamp(max=count - 1)


eight_gaussians = GaussianRing(8, 4 / math.sqrt(2), 0.5 / math.sqrt(2))
"""Radius 4 / sqrt 2, standard deviations 0.5 / sqrt 2; entropy 2.832."""

two_moons = Arcs([(-1.0, -0.2), (1.0, 0.8)], [2.0, 2.0], [0.0, math.pi], math.pi, 0.2)
"""Half circles of radius 2 about (-1, -0.2), upwards, and about (1, 0.8), downwards; standard deviation 0.2. That is
scikit-learn's ``make_moons(noise=0.1)`` times 2 plus (-1, -0.2); entropy 2.394."""

circles = Arcs([(0.0, 0.0), (0.0, 0.0)], [3.0, 1.5], [0.0, 0.0], 2 * math.pi, 0.24)
"""Circles of radius 3 and 1.5, equally likely; standard deviation 0.24. That is scikit-learn's
``make_circles(factor=0.5, noise=0.08)`` times 3; entropy 3.268."""

checkerboard = Checkerboard()
"""Eight squares of area 4; entropy ln 32 = 3.466."""

pinwheel = Pinwheel()
"""Five arms."""

TOYS: dict[str, Toy] = {
    "8gaussians": eight_gaussians,
    "moons": two_moons,
    "circles": circles,
    "checkerboard": checkerboard,
    "pinwheel": pinwheel,
}
"""All of them by name."""
