"""SDEs with solutions in closed form, along Brownian paths of which every cell is known by its (W, H).

On a cell of length d:  int (W - W_0) dt = d (w/2 + H),  so  int (t - t_mid) dW = -d H.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

import sdesolve as ss
from sdesolve.methods import Increments, State
from sdesolve.state import state_spec
from sdesolve.system import System

T = 1.0
LEVELS = range(4, 9)
FINEST = 11
PATHS = 1000


class Path:
    """w and H, (cells, paths, channels), of independent cells that fill [0, T]."""

    def __init__(self, channels: int, seed: int = 0, paths: int = PATHS) -> None:
        generator = torch.Generator().manual_seed(seed)
        count = 2**FINEST
        self.cell = T / count
        normal = torch.randn(2, count, paths, channels, generator=generator, dtype=torch.float64)
        self.w, self.H = normal[0] * self.cell**0.5, normal[1] * (self.cell / 12) ** 0.5
        self.left = torch.cumsum(self.w, 0) - self.w
        self.starts = torch.arange(count, dtype=torch.float64)[:, None, None] * self.cell

    def increments(self, level: int) -> tuple[Tensor, Tensor]:
        """(W, H) of 2^level intervals, from sums over their cells."""
        blocks = lambda x: x.reshape(2**level, -1, *x.shape[1:])
        w = blocks(self.w).sum(1)
        left = blocks(self.left) - blocks(self.left)[:, :1]
        mean = (left + blocks(self.w) / 2 + blocks(self.H)).mean(1)
        return w, mean - w / 2

    def integral(self, integrand: Callable[[Tensor], Tensor], slope: Callable[[Tensor], Tensor]) -> Tensor:
        """int F dW for F(t), by F(t_mid) w - F'(t_mid) d H on every cell; exact for an F linear in t."""
        middle = self.starts + self.cell / 2
        return (integrand(middle) * self.w - slope(middle) * self.cell * self.H).sum(0)


@dataclass(frozen=True)
class Known:
    """sde : calculus -> the same process; exact : path -> X_T, (paths, 2)."""

    name: str
    noise: str
    structure: str
    channels: int
    sde: Callable[[str], ss.SDE]
    exact: Callable[[Path], Tensor]
    x0: tuple[float, float] = (1.0, 0.5)

    def end(self, method, calculus: str, path: Path, level: int) -> Tensor:
        """X_T by 2^level steps of a method."""
        w, H = path.increments(level)
        y = torch.tensor([self.x0], dtype=torch.float64).repeat(w.shape[1], 1)
        system = System(self.sde(calculus), state_spec(y, True)[0])
        ts = torch.linspace(0, T, len(w) + 1, dtype=torch.float64)
        for k in range(len(w)):
            inc = Increments(ts[k], ts[k + 1], ts[k + 1] - ts[k], w[k], H[k])
            y = method.step(system, State(y), inc).state.y
        return y

    def strong_order(self, method, calculus: str, finer: int = 0) -> float:
        """Slope of log E|X_T - X_T^h| on log h."""
        path, exact = drawn(self.channels), solved(self)
        levels = [n + finer for n in LEVELS if n + finer < FINEST]
        errors = [(self.end(method, calculus, path, n) - exact).norm(dim=1).mean() for n in levels]
        x, y = -torch.tensor([float(n) for n in levels]), torch.stack(errors).log2()
        x, y = x - x.mean(), y - y.mean()
        return float((x * y).sum() / (x * x).sum())


@cache
def drawn(channels: int) -> Path:
    return Path(channels)


@cache
def solved(problem: Known) -> Tensor:
    return problem.exact(drawn(problem.channels))


def tensor(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def geometric() -> Known:
    """dX = a(t) X dt + b(t) X dW with a = 2 cos(4 t), b = (0.4 + 0.8 t, 0.9 - 0.6 t):

    X = x exp(int (a - b^2/2) dt + int b dW)
    """
    b0, b1, x0 = tensor(0.4, 0.9), tensor(0.8, -0.6), tensor(1.0, 0.5)
    a, b = lambda t: 2 * torch.cos(4 * t), lambda t: b0 + b1 * t

    def sde(calculus: str) -> ss.SDE:
        correction = 0.0 if calculus == "ito" else 0.5
        return ss.SDE(lambda t, y: (a(t) - correction * b(t) ** 2) * y, lambda t, y: b(t) * y, calculus=calculus)

    def exact(path: Path) -> Tensor:
        square = b0**2 + b0 * b1 + b1**2 / 3
        drift = torch.sin(torch.tensor(4.0, dtype=torch.float64)) / 2 - square / 2
        return x0 * torch.exp(drift + path.integral(b, lambda t: b1 + 0 * t))

    return Known("geometric", "diagonal", "commutative", 2, sde, exact)


MATRIX, SIGMA, START = tensor([-0.5, 0.8], [-0.6, -0.3]), tensor(0.5, 0.8), tensor(0.6, -0.4)


def linear_integral(path: Path, noise: Tensor, slope: Tensor) -> Tensor:
    """Z_T of dZ = A Z dt + (G_0 + t G_1) dW for G_0, G_1 of shape (2, m), to O(cell^2)."""
    value, vectors = torch.linalg.eig(MATRIX)
    back = torch.linalg.inv(vectors)

    def flow(t: Tensor) -> Tensor:
        return ((vectors * torch.exp(value * t[..., None, None])) @ back).real

    middle = path.starts[:, 0, 0] + path.cell / 2
    G = noise + slope * middle[:, None, None]
    F = flow(T - middle) @ G
    dF = flow(T - middle) @ (slope - MATRIX @ G)
    parts = torch.einsum("cij,cpj->pi", F, path.w) - path.cell * torch.einsum("cij,cpj->pi", dF, path.H)
    return flow(torch.tensor(T, dtype=torch.float64)) @ START + parts


def stretched(noise: str) -> Known:
    """X = sinh Z with dZ = A Z dt + sigma dW:

    dX = (sqrt(1 + X^2) (A asinh X) + sigma^2 X/2) dt + sigma sqrt(1 + X^2) dW
    """
    scalar = noise == "scalar"

    def sde(calculus: str) -> ss.SDE:
        correction = 0.5 if calculus == "ito" else 0.0
        width = lambda y: torch.sqrt(1 + y * y)
        drift = lambda t, y: width(y) * (torch.asinh(y) @ MATRIX.T) + correction * SIGMA**2 * y
        return ss.SDE(drift, lambda t, y: SIGMA * width(y), noise=noise, calculus=calculus)

    def exact(path: Path) -> Tensor:
        G = SIGMA[:, None] if scalar else torch.diag(SIGMA)
        return torch.sinh(linear_integral(path, G, torch.zeros_like(G)))

    x0 = tuple(torch.sinh(START).tolist())
    return Known(f"sinh, {noise}", noise, "commutative", 1 if scalar else 2, sde, exact, x0)


def turn(growth: float, rotation: float) -> Tensor:
    """The matrix of multiplication with growth + i rotation; such matrices commute."""
    return tensor([growth, -rotation], [rotation, growth])


def turned(noise: str) -> Known:
    """dX = A X dt + sum_k (1 + t) B_k X dW_k with commuting matrices:

    X = exp(A T - 1/2 sum B_k^2 int (1 + t)^2 dt + sum B_k int (1 + t) dW_k) x
    """
    A, x0 = turn(-0.2, 0.8), tensor(1.0, 0.5)
    B = torch.stack([turn(0.4, 0.2), turn(-0.1, 0.3)])[: 1 if noise == "scalar" else 2]

    def sde(calculus: str) -> ss.SDE:
        squares = (B @ B).sum(0) * (0.0 if calculus == "ito" else 0.5)
        columns = lambda t, y: (1 + t) * torch.einsum("kij,nj->nik", B, y)
        diffusion = (lambda t, y: columns(t, y)[..., 0]) if noise == "scalar" else columns
        return ss.SDE(
            lambda t, y: y @ (A - (1 + t) ** 2 * squares).T, diffusion, noise=noise, calculus=calculus, commutative=True
        )

    def exact(path: Path) -> Tensor:
        W = path.integral(lambda t: 1 + t, lambda t: 1 + 0 * t)
        exponent = A - (B @ B).sum(0) * (7 / 3) / 2 + torch.einsum("pk,kij->pij", W, B)
        return torch.linalg.matrix_exp(exponent) @ x0

    return Known(f"turning, {noise}", noise, "commutative", len(B), sde, exact)


def ornstein_uhlenbeck(noise: str) -> Known:
    """dX = A X dt + (G_0 + t G_1) dW."""
    full = tensor([0.5, -0.3], [0.4, 0.8]), tensor([0.6, 0.5], [-0.9, 0.4])
    G0, G1 = full if noise == "general" else (g[:, :1] for g in full)

    def sde(calculus: str) -> ss.SDE:
        diffusion = lambda t, y: (G0 + t * G1) if noise == "general" else (G0 + t * G1)[:, 0].expand(y.shape)
        return ss.SDE(lambda t, y: y @ MATRIX.T, diffusion, noise=noise, additive=True, calculus=calculus)

    exact = lambda path: linear_integral(path, G0, G1)
    return Known(f"Ornstein-Uhlenbeck, {noise}", noise, "additive", G0.shape[1], sde, exact, tuple(START.tolist()))


def logarithmic() -> Known:
    """dX = (a + b(t) exp(-X)) dt + c dW, b = 1 + 2 t:  with V = a t + c W  exp(X) = exp(V) (exp x + int b exp(-V) dt).

    On a cell exp(-V) is expanded to second order in its W, of whose square the mean given (w, H) is
    d (w^2/3 + w H + 6/5 H^2 + d/15).
    """
    a, c, x0 = tensor(-0.4, 0.2), tensor(1.6, 1.2), tensor(0.5, 0.8)
    b = lambda t: 1 + 2 * t

    def sde(calculus: str) -> ss.SDE:
        drift = lambda t, y: a + b(t) * torch.exp(-y)
        return ss.SDE(drift, lambda t, y: c.expand(y.shape), additive=True, calculus=calculus)

    def exact(path: Path) -> Tensor:
        d, w, H = path.cell, path.w, path.H
        first = w / 2 + H
        second = w * w / 3 + w * H + 1.2 * H * H + d / 15
        # a s in the exponent and b(t_0 + s): to first order in s
        series = 1 - c * first + c * c / 2 * second - a * d / 2
        value = torch.exp(-a * path.starts - c * path.left)
        middle = b(path.starts + d / 2)
        total = (d * value * middle * series).sum(0)
        return a * T + c * (path.left[-1] + w[-1]) + torch.log(torch.exp(x0) + total)

    return Known("logarithmic", "diagonal", "additive", 2, sde, exact, tuple(x0.tolist()))


KNOWN = (
    geometric(),
    stretched("diagonal"),
    stretched("scalar"),
    turned("scalar"),
    turned("general"),
    ornstein_uhlenbeck("scalar"),
    ornstein_uhlenbeck("general"),
    logarithmic(),
)
