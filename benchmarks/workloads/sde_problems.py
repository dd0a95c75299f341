"""SDEs on which methods of several libraries are compared, each with its solution along the path that was taken.

Libraries draw paths of their own. What a path is known by is the increments W of its steps and, where a method reads
them, their space-time Levy areas H; between these it is drawn anew here, given them, as often as a solution asks for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, exp, inf, sin, sinh
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

import sdesolve as ss
from benchmarks.reference import is_white

#: functions are given torch or jax.numpy, t and y
Function = Callable[[ModuleType, Any, Any], Any]


@dataclass(frozen=True)
class Path:
    """w, H : (steps, paths, channels) over steps that make up [0, 1], H None where it is not known. area : (steps,
    paths, channels, channels) between channels, where it is known."""

    w: Tensor
    H: Tensor | None = None
    area: Tensor | None = None

    @property
    def step(self) -> float:
        return 1 / len(self.w)

    def finer(self, parts: int) -> Path:
        """The same path by steps that are so many times shorter.

        Of a Brownian motion B' that is drawn anew, with W' and H' over a step of length h,

            B(u) = B'(u) + u/h (W - W') + 6 u (h - u)/h^2 (H - H')

        has W and H and, given them, the right law: W and H are independent, Var W = h, Var H = h/12, and the factors
        are Cov(B(u), W)/Var W and Cov(B(u), H)/Var H.
        """
        if parts == 1:
            return self
        steps, *rest = self.w.shape
        generator, d = torch.Generator().manual_seed(1), self.step / parts
        z = torch.randn(2, steps, parts, *rest, generator=generator, dtype=torch.float64)
        w, H = z[0] * d**0.5, z[1] * (d / 12) ** 0.5
        whole = w.sum(1, keepdim=True)
        area = (w.cumsum(1) - w / 2 + H).mean(1, keepdim=True) - whole / 2
        more = 0.0 * area if self.H is None else self.H[:, None] - area
        at = torch.linspace(0, 1, parts + 1, dtype=torch.float64)
        bump = (6 * at * (1 - at)).diff().reshape(-1, *(1,) * len(rest))
        w = w + (self.w[:, None] - whole) / parts + bump * more
        return Path(w.flatten(0, 1), (H + more / parts**2).flatten(0, 1))

    @property
    def is_brownian(self) -> bool:
        """Whether W and H could be those of independent Brownian motions, by 5 standard errors."""
        return is_white(self.w) and (self.H is None or is_white(self.H * 12**0.5))


@dataclass(frozen=True, eq=False)
class Problem:
    """An SDE on [0, 1] with y(0) = start.

    noise : as in `ss.SDE`; structure : ``"general"``, ``"commutative"`` or ``"additive"``. channels : Brownian motions.
    drift : in either calculus. exact : Path -> y(1). finer : how many times shorter than a step those of the path are
    that it needs. steps : what is measured. bound : errors are below bound sqrt(h). goal : error for which tables tell
    the work.
    """

    name: str
    what: str
    noise: str
    structure: str
    start: tuple[float, ...]
    channels: int
    drift: dict[str, Function]
    diffusion: Function
    exact: Callable[[Path], Tensor]
    finer: int
    steps: tuple[int, ...]
    bound: float
    goal: float

    def sde(self, calculus: str) -> ss.SDE:
        """As sdesolve takes it."""
        f, g = self.drift[calculus], self.diffusion
        return ss.SDE(
            lambda t, y: f(torch, t, y),  # type: ignore[arg-type]
            lambda t, y: g(torch, t, y),  # type: ignore[arg-type]
            noise=self.noise,
            additive=self.structure == "additive",
            calculus=calculus,
        )

    def forms(self, calculus: str) -> list[ss.SDE]:
        """All the ways in which sdesolve takes it: with additive noise also as dX = (-X + (f + X)) dt + g dW."""
        found = [self.sde(calculus)]
        semilinear: Any = getattr(ss, "Semilinear", None)
        if semilinear is not None and self.structure == "additive" and self.noise == "diagonal":
            f, y = self.drift[calculus], torch.tensor([self.start], dtype=torch.float64)
            g = float(self.diffusion(torch, 0.0 * y, y)[0, 0])
            found.append(semilinear(-1.0, lambda t, y: f(torch, t, y) + y, g))
        return found

    def error(self, y: Tensor, path: Path) -> float:
        """E |y(1) - y|, infinite along what is no path of a Brownian motion."""
        if not path.is_brownian:
            return inf
        finer = path if path.area is not None else path.finer(self.finer)
        return float(torch.linalg.vector_norm(y - self.exact(finer), dim=-1).mean())


def _sinh() -> Problem:
    """X = sinh Z with dZ = (c(t) - Z) dt + s dW, c = 1/2 cos 4 t:

        dX = ((1 + X^2)^(1/2) (c - asinh X) + s^2 X/2) dt + s (1 + X^2)^(1/2) dW      (Ito)

    Z_1 = z_0/e + int exp(u - 1) (c du + s dW): on a step of length d, with F = exp(u - 1) at its middle, F W - F d H;
    what is left is of order d^(5/2) with mean 0.
    """
    z0, s = 0.6, 0.8
    width = lambda xp, y: xp.sqrt(1 + y * y)
    drift: Function = lambda xp, t, y: width(xp, y) * (0.5 * xp.cos(4 * t) - xp.asinh(y))

    def exact(path: Path) -> Tensor:
        assert path.H is not None
        middle = (torch.arange(len(path.w), dtype=torch.float64) + 0.5) * path.step
        noise = torch.exp(middle - 1).reshape(-1, 1, 1) * (path.w - path.step * path.H)
        # int exp(u - 1) cos 4 u du = exp(u - 1) (cos 4 u + 4 sin 4 u)/17
        pushed = (cos(4) + 4 * sin(4) - exp(-1)) / 34
        return torch.sinh(z0 * exp(-1) + pushed + s * noise.sum(0))

    return Problem(
        "multiplicative",
        "diagonal noise, X = sinh of an Ornstein-Uhlenbeck process",
        "diagonal",
        "commutative",
        (sinh(z0),),
        1,
        {"ito": lambda xp, t, y: drift(xp, t, y) + 0.5 * s * s * y, "stratonovich": drift},
        lambda xp, t, y: s * width(xp, y),
        exact,
        4,
        (8, 32, 128),
        0.35,
        1e-3,
    )


def _logarithmic() -> Problem:
    """dX = (a + b(t) exp(-X)) dt + c dW, b = 1/2 + t/5: with V = a t + c W

        exp(X_1) = exp(V_1) (exp(x_0) + int b exp(-V) dt)

    On a short step of length d, exp(V_s - V) is expanded to second order in its W, of whose square the mean given
    (W, H) is W^2/3 + W H + 6/5 H^2 + d/15.
    """
    a, c, x0 = 0.3, 1.0, 0.6
    drift: Function = lambda xp, t, y: a + (0.5 + 0.2 * t) * xp.exp(-y)

    def exact(path: Path) -> Tensor:
        w, H, d = path.w, path.H, path.step
        assert H is not None
        t = torch.arange(len(w), dtype=torch.float64).reshape(-1, 1, 1) * d
        left = w.cumsum(0) - w
        square = w * w / 3 + w * H + 1.2 * H * H + d / 15
        mean = 1 - c * (w / 2 + H) + 0.5 * c**2 * square - 0.5 * a * d
        integral = (d * (0.5 + 0.2 * (t + d / 2)) * torch.exp(-a * t - c * left) * mean).sum(0)
        return a + c * w.sum(0) + torch.log(torch.exp(torch.tensor(x0, dtype=torch.float64)) + integral)

    return Problem(
        "additive",
        "additive noise, exp(-X) in the drift",
        "diagonal",
        "additive",
        (x0,),
        1,
        {"ito": drift, "stratonovich": drift},
        lambda xp, t, y: xp.full_like(y, c),
        exact,
        16,
        (8, 32, 128),
        0.2,
        1e-4,
    )


A = torch.tensor([[-0.1, -0.2], [0.2, -0.1]], dtype=torch.float64)
SHEARS = torch.tensor([[[0.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [1.0, 0.0]]], dtype=torch.float64)


def _shears() -> Problem:
    """dX = A X dt + (X_2, 0) dW_1 + (0, X_1) dW_2, the same in both calculi. A step of the path is

        exp(A d + B_1 W_1 + B_2 W_2 + L [B_2, B_1])

    with the Levy area L = 1/2 int W_1 dW_2 - W_2 dW_1 where it is known; elsewhere its mean 0 stands for it.
    """

    def drift(xp: ModuleType, t: Any, y: Any) -> Any:
        x, z = y[..., 0], y[..., 1]
        return xp.stack([-0.1 * x - 0.2 * z, 0.2 * x - 0.1 * z], -1)

    def diffusion(xp: ModuleType, t: Any, y: Any) -> Any:
        x, z = y[..., 0], y[..., 1]
        return xp.stack([xp.stack([z, 0.0 * z], -1), xp.stack([0.0 * x, x], -1)], -2)

    def exact(path: Path) -> Tensor:
        bracket = SHEARS[1] @ SHEARS[0] - SHEARS[0] @ SHEARS[1]
        exponents = A * path.step + torch.einsum("snk,kij->snij", path.w, SHEARS)
        if path.area is not None:
            exponents = exponents + path.area[:, :, 0, 1, None, None] * bracket
        y = torch.ones(*path.w.shape[1:-1], 2, 1, dtype=torch.float64)
        for exponent in exponents:
            term = y
            for k in range(1, 6):
                term = exponent @ term / k
                y = y + term
        return y[..., 0]

    return Problem(
        "non-commutative",
        "general noise, two shears that do not commute",
        "general",
        "general",
        (1.0, 1.0),
        2,
        {"ito": drift, "stratonovich": drift},
        diffusion,
        exact,
        32,
        (4, 16, 64),
        1.5,
        3e-2,
    )


PROBLEMS = (_sinh(), _logarithmic(), _shears())
