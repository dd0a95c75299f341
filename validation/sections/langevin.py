"""The methods for Langevin dynamics: what their chains sample, and how closely they follow a path.

A chain with steps h has a stationary law of its own. For a quadratic potential that is normal, with the covariance
S = M S M' + N N'  of the step  y -> M y + N normals,  which is read off the code. For the double well it is found as
mu (1 + r), where mu is the target, by Galerkin's method: r in polynomials b_j orthogonal under mu, with

    E_mu (1 + r) (P b_k - b_k) = 0   for all k,      P f(y) = E f(y_1),

and all expectations by Gauss's rules. So neither has sampling noise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import solve_discrete_lyapunov
from torch import Tensor

import sdesolve as ss
from sdesolve.brownian.levy import LEVY
from sdesolve.methods import METHODS, Increments, Method, State, made_for
from sdesolve.state import state_spec
from sdesolve.system import System
from validation.check import Case, Check, Settings, bounded
from validation.moments import gauss_hermite
from validation.order import fit_order, fit_sampled_order, order_check
from validation.significance import agreement, kolmogorov_smirnov, mean_and_covariance

Array = NDArray[np.float64]

BOUND = 0.15
GAMMA, HEAT = 1.3, 0.7
STIFFNESS = np.array([[2.0, 0.6], [0.6, 0.5]])

STATIONARY_ORDER = {"baoab": 2.0, "obabo": 2.0, "quicsort": 3.0}
"""Of the stationary covariance; that of x is exact for baoab."""


def vector(x: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(x))


def quadratic() -> ss.Langevin:
    """U(x) = x' K x / 2."""
    K = vector(STIFFNESS)
    return ss.Langevin(lambda x: 0.5 * torch.einsum("ni,ij,nj->n", x, K, x), gamma=GAMMA, temperature=HEAT)


def double_well(temperature: float = 1.0) -> ss.Langevin:
    """U(x) = (x^2 - 1)^2."""
    return ss.Langevin(lambda x: ((x * x - 1) ** 2).sum(-1), gamma=GAMMA, temperature=temperature)


def smooth() -> ss.Langevin:
    """U(x) = cos x_1 + cos x_2 + |x|^2 / 2 + 0.3 x_1 x_2."""
    energy = lambda x: (torch.cos(x) + 0.5 * x * x).sum(-1) + 0.3 * x[:, 0] * x[:, 1]
    return ss.Langevin(energy, gamma=GAMMA, temperature=HEAT)


def channels(method: Method) -> int:
    """Normals of a step for each component: those of W and of the areas."""
    return 1 + len(LEVY[method.levy])


def one_step(langevin: ss.Langevin, method: Method, y: Array, normals: Array, h: float) -> Array:
    """(n, 2 d) after a step of length h; normals (parts, n, d) drive the velocities, in standard deviations."""
    d = y.shape[1] // 2
    start = vector(y[:, :d]), vector(y[:, d:])
    spec, inside = state_spec(start, True)
    system, zero, step = System(langevin, spec), *(torch.tensor(t, dtype=torch.float64) for t in (0.0, h))
    scales = np.sqrt([h, h / 12, h / 720])
    parts = [vector(np.concatenate([0 * z, scale * z], 1)) for z, scale in zip(normals, scales, strict=False)]
    with torch.no_grad():
        state = State(inside, method.init(system, zero, inside))
        return method.step(system, state, Increments(zero, step, step, *parts)).state.y.numpy()


def stationary_covariance(langevin: ss.Langevin, method: Method, d: int, h: float) -> Array:
    """Of the chain of a problem with linear forces."""
    parts = channels(method)
    M = one_step(langevin, method, np.eye(2 * d), np.zeros((parts, 2 * d, d)), h).T
    normals = np.eye(parts * d).reshape(parts * d, parts, d).swapaxes(0, 1)
    N = one_step(langevin, method, np.zeros((parts * d, 2 * d)), normals, h).T
    return np.asarray(solve_discrete_lyapunov(M, N @ N.T), np.float64)


def target_covariance() -> Array:
    """diag(T K^-1, T)."""
    zero = np.zeros((2, 2))
    return HEAT * np.block([[np.linalg.inv(STIFFNESS), zero], [zero, np.eye(2)]])


def gaussian(method: Method, settings: Settings) -> Iterator[Check]:
    """The order of the stationary covariance, by its equation; and the law of simulated end points."""
    langevin, target = quadratic(), target_covariance()
    steps = [2.0**-k for k in range(2, 8)]
    found = [stationary_covariance(langevin, method, 2, h) for h in steps]
    yield order_check(
        "sde",
        f"{method.name}, stationary covariance",
        f"order of the stationary covariance of {method.name}, quadratic potential",
        fit_order(steps, [float(np.linalg.norm(S - target)) for S in found]),
        STATIONARY_ORDER[method.name],
        BOUND,
        figure="Stationary covariance of Langevin dynamics, quadratic potential",
        label=method.name,
        y_label="|error of covariance|",
        source=method.source,
    )
    if method.name == "baoab":
        error = max(float(np.abs(S - target)[:2, :2].max()) for S in found)
        what = "stationary covariance of x, baoab with h up to 1/4, quadratic potential"
        yield bounded("sde", "baoab, stationary covariance of x", what, error, 1e-12)
    h, paths = 0.5, 10_000 if settings.quick else 100_000
    there = stationary_covariance(langevin, method, 2, h)
    name = f"{method.name}, simulated stationary law"
    start = torch.zeros(paths, 2, dtype=torch.float64)
    ts = torch.tensor([0.0, 30.0], dtype=torch.float64)
    x, v = ss.solve(langevin, (start, start), ts, dt=h, method=method, seed=settings.seed_of(name)).ys
    sample = torch.cat([x[-1], v[-1]], 1).numpy()
    what = f"of (x, v) by {method.name}, h = {h}, quadratic potential"
    yield from mean_and_covariance("sde", name, what, sample, np.zeros(4), there)


# ---- the double well


@dataclass(frozen=True)
class Orthogonal:
    """Polynomials p_0, p_1, ... that are orthonormal under a probability on the line, by their recurrence
    root_{k+1} p_{k+1} = (x - middle_k) p_k - root_k p_{k-1}."""

    middles: Array
    roots: Array

    @staticmethod
    def under(x: Array, weights: Array, count: int) -> Orthogonal:
        """For a discrete probability, by Stieltjes' procedure (Gautschi 2004, section 2.2.3.1)."""
        middles, roots, before, now = [], [0.0], np.zeros_like(x), np.ones_like(x)
        for _ in range(count):
            middles.append(weights @ (x * now * now))
            rest = (x - middles[-1]) * now - roots[-1] * before
            roots.append(np.sqrt(weights @ (rest * rest)))
            before, now = now, rest / roots[-1]
        return Orthogonal(np.array(middles), np.array(roots))

    def rule(self, nodes: int) -> tuple[Array, Array]:
        """Gauss's nodes and weights."""
        off = self.roots[1:nodes]
        values, vectors = np.linalg.eigh(np.diag(self.middles[:nodes]) + np.diag(off, 1) + np.diag(off, -1))
        return values, vectors[0] ** 2

    def __call__(self, x: Array, count: int) -> Array:
        """(len(x), count) values."""
        found = [np.ones_like(x)]
        for k in range(count - 1):
            last = self.roots[k] * found[k - 1] if k else 0.0
            found.append(((x - self.middles[k]) * found[k] - last) / self.roots[k + 1])
        return np.stack(found, 1)


@dataclass(frozen=True)
class Galerkin:
    """Sizes: polynomials in x and in v, nodes of x and of v, and of the normals of a step."""

    x: int = 14
    v: int = 10
    nodes_x: int = 24
    nodes_v: int = 16
    normals: tuple[int, ...] = (10, 4, 3)

    def squares(self, langevin: ss.Langevin, method: Method, h: float, temperature: float = 1.0) -> tuple[float, float]:
        """E x^2 in the double well: of the target, and how much that of the chain differs."""
        fine = np.linspace(-4, 4, 2001)
        density = np.exp(-((fine**2 - 1) ** 2) / temperature)
        of_x = Orthogonal.under(fine, density / density.sum(), self.nodes_x)
        hermite, weights = np.polynomial.hermite_e.hermegauss(60)
        of_v = Orthogonal.under(temperature**0.5 * hermite, weights / weights.sum(), self.nodes_v)
        (x, wx), (v, wv) = of_x.rule(self.nodes_x), of_v.rule(self.nodes_v)
        points = np.stack(np.meshgrid(x, v, indexing="ij"), -1).reshape(-1, 2)
        mu = np.outer(wx, wv).ravel()

        def basis(y: Array) -> Array:
            return (of_x(y[:, 0], self.x)[:, :, None] * of_v(y[:, 1], self.v)[:, None]).reshape(len(y), -1)

        here, after = basis(points), np.zeros((len(points), self.x * self.v))
        for weight, z in self.nodes(method):
            normals = np.broadcast_to(z[:, None, None], (len(z), len(points), 1))
            after += weight * basis(one_step(langevin, method, points, normals, h))
        change = here.T @ (mu[:, None] * (after - here))
        r = np.linalg.solve(change[1:, 1:].T, -change[0, 1:])
        square = here.T @ (mu * points[:, 0] ** 2)
        return float(square[0]), float(square[1:] @ r)

    def nodes(self, method: Method) -> Iterator[tuple[float, Array]]:
        """Weights and normals of a step."""
        rules = [gauss_hermite(1, n) for n in self.normals[: channels(method)]]
        grids = np.stack(np.meshgrid(*(x[:, 0] for x, _ in rules), indexing="ij"), -1).reshape(-1, len(rules))
        weights = np.stack(np.meshgrid(*(w for _, w in rules), indexing="ij"), -1).reshape(-1, len(rules)).prod(1)
        return zip(weights.tolist(), grids, strict=True)


def bias(method: Method, settings: Settings) -> Iterator[Check]:
    """The order of E x^2 under the chain's law, in the double well."""
    steps = [0.2 * 2 ** (-k / 2) for k in range(5)]
    found = [Galerkin().squares(double_well(), method, h)[1] for h in steps]
    yield order_check(
        "sde",
        f"{method.name}, bias in the double well",
        f"order of the bias of E x^2 by {method.name}, double well",
        fit_order(steps, np.abs(found)),
        STATIONARY_ORDER[method.name],
        0.3,
        figure="Bias of Langevin dynamics, double well",
        label=method.name,
        y_label="|bias of E x^2|",
        source=method.source,
    )


def well_law(method: Method, settings: Settings) -> Iterator[Check]:
    """End points of an ensemble in the double well, at small steps, against the target by quadrature."""
    paths, name = 10_000 if settings.quick else 100_000, f"{method.name}, law in the double well"
    start = torch.zeros(paths, 1, dtype=torch.float64)
    ts = torch.tensor([0.0, 12.0], dtype=torch.float64)
    x = ss.solve(double_well(), (start, start), ts, dt=0.06, method=method, seed=settings.seed_of(name)).ys[0][-1]
    fine = np.linspace(-4, 4, 8001)
    density = np.exp(-((fine**2 - 1) ** 2))
    density /= density.sum()
    law = np.cumsum(density) - 0.5 * density
    what = f"law of x by {method.name}, double well"
    yield kolmogorov_smirnov("sde", name, what, x.numpy(), lambda q: np.interp(q, fine, law))
    squares = x.numpy() ** 2
    error = squares.std() / paths**0.5
    expected = float(density @ fine**2)
    what = f"E x^2 by {method.name}, double well"
    yield agreement("sde", f"{name}, E x^2", what, squares.mean(), expected, error, ["E x^2"], paths=paths)


# ---- along a path


def strong_order(method: Method, settings: Settings) -> Iterator[Check]:
    """E|error of (x, v)| against quicsort with steps four times finer."""
    name = f"{method.name}, strong, Langevin dynamics"
    paths, finest = (500, 6) if settings.quick else (4000, 7)
    steps = [2.0**-k for k in range(2, finest + 1)]
    cell = min(steps) / 4
    path = ss.BrownianPath(settings.seed_of(name), (paths, 4), cell=cell, levy="space-time-time", dtype=torch.float64)
    start = torch.full((paths, 2), 0.3, dtype=torch.float64), torch.zeros(paths, 2, dtype=torch.float64)
    ts = torch.tensor([0.0, 2.0], dtype=torch.float64)

    def end(dt: float, method: str | Method) -> Tensor:
        x, v = ss.solve(smooth(), start, ts, dt=dt, method=method, brownian=path).ys
        return torch.cat([x[-1], v[-1]], 1)

    exact = end(cell, "quicsort")
    errors = np.stack([torch.linalg.vector_norm(end(h, method) - exact, dim=1).numpy() for h in steps])
    yield order_check(
        "sde",
        name,
        f"strong order of {method.name}, smooth potential",
        fit_sampled_order(steps, errors, seed=settings.seed),
        method.order,
        BOUND,
        figure="Strong error of Langevin dynamics",
        label=method.name,
        y_label="E |error|",
        paths=paths,
        source=method.source,
    )


def cases(settings: Settings) -> list[Case]:
    kinds = {"stationary covariance": gaussian, "double well": well_law, "bias": bias, "strong order": strong_order}
    return [
        Case(f"{name}, Langevin, {what}", partial(run, METHODS["sde", name], settings))
        for name in made_for("Langevin")
        for what, run in kinds.items()
    ]
