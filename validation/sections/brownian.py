"""Brownian increments and their Levy areas: known words, their law, independence, and the bridge between cells."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from scipy import stats
from torch import Tensor

import sdesolve as ss
from sdesolve.brownian import philox4x32
from sdesolve.brownian.levy import Increment, Normals
from sdesolve.brownian.window import Source, Window, window_of_seed
from validation.check import Case, Check, Section, Settings, bounded
from validation.significance import agreement, kolmogorov_smirnov, mean_and_covariance

CELL = 0.25

KNOWN = (
    # Salmon et al. 2011, Philox4x32-10: counter, key, words
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
)


def known_answers() -> Iterator[Check]:
    words = lambda text: [int(word, 16) for word in text.split()]
    wrong = 0
    for counter, key, answer in KNOWN:
        got = philox4x32(*(torch.tensor(word) for word in (*words(counter), *words(key))))
        wrong += sum(int(word) != right for word, right in zip(got, words(answer), strict=True))
    yield bounded("brownian", "known answers", "wrong words of Philox4x32-10 of twelve published", float(wrong), 0.0)


def normals(settings: Settings, name: str, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """Standardised increments of cells: (cells, paths, channels)."""
    paths = 1024 if settings.quick else 4096
    path = ss.BrownianPath(settings.seed_of(name) + seed, (paths, 2), cell=CELL, dtype=dtype)
    return path.increments(-32, 96) / math.sqrt(CELL)


def law(settings: Settings, dtype: torch.dtype) -> Iterator[Check]:
    kind = str(dtype).removeprefix("torch.")
    z = normals(settings, f"law {kind}", dtype).double().numpy().ravel()
    n = z.size
    powers = [z.mean(), (z**2).mean(), (z**3).mean(), (z**4).mean()]
    # Var z^k = E z^2k - (E z^k)^2 = 1, 2, 15, 96
    error = np.sqrt(np.array([1.0, 2.0, 15.0, 96.0]) / n)
    labels = ["mean", "second", "third", "fourth"]
    yield agreement(
        "brownian",
        f"moments, {kind}",
        f"moments of increments, {kind}",
        powers,
        [0.0, 1.0, 0.0, 3.0],
        error,
        labels,
        samples=n,
    )
    what = f"increments are normal, {kind}"
    yield kolmogorov_smirnov("brownian", f"law, {kind}", what, z, stats.norm.cdf)


def long_increments(settings: Settings) -> Iterator[Check]:
    """W(t) - W(s) over many cells: normal with variance t - s."""
    paths = 20_000 if settings.quick else 100_000
    path = ss.BrownianPath(settings.seed_of("long increments"), (paths,), cell=CELL, dtype=torch.float64)
    for s, t in ((0.0, 1.0), (-2.5, 7.25)):
        w = path(s, t).numpy() / math.sqrt(t - s)
        name = f"law of W({t:g}) - W({s:g})"
        yield kolmogorov_smirnov("brownian", name, f"{name} is N(0, {t - s:g})", w, stats.norm.cdf)


def independence(settings: Settings) -> Iterator[Check]:
    """E u v = 0 and E (u^2 - 1)(v^2 - 1) = 0 for pairs (u, v) that must be independent; variances 1 and 4.

    The squares matter: the two normals of a Box-Muller pair share a radius.
    """
    z, other = normals(settings, "independence"), normals(settings, "independence", seed=1)
    pairs = {
        "next cell": (z[:-1], z[1:]),
        "cell after next": (z[:-2], z[2:]),
        "third cell after": (z[:-3], z[3:]),
        "fourth cell after": (z[:-4], z[4:]),
        "channels": (z[..., 0], z[..., 1]),
        "trajectories": (z[:, :-1], z[:, 1:]),
        "seeds": (z, other),
    }
    for power, f, scale in (("normals", lambda x: x, 1.0), ("squares", lambda x: x**2 - 1, 2.0)):
        products = {name: (f(u) * f(v)).flatten() for name, (u, v) in pairs.items()}
        yield agreement(
            "brownian",
            f"independence, {power}",
            f"no correlation of {power}",
            [float(p.mean()) for p in products.values()],
            0.0,
            [scale / math.sqrt(p.numel()) for p in products.values()],
            list(products),
        )


def one_path(settings: Settings) -> Iterator[Check]:
    """Increments add up; they are the same for every batch and order of queries, and for a solve of dX = dW."""
    seed = settings.seed_of("one path")
    path = ss.BrownianPath(seed, (64, 3), cell=CELL, dtype=torch.float64)
    gap = float((path(-3.0, 5.0) - path(-3.0, 1.25) - path(1.25, 5.0)).abs().max())
    yield bounded("brownian", "additivity", "W(s, u) - W(s, t) - W(t, u)", gap, 1e-13)
    later = path(4.0, 5.0)
    alone = torch.cat([path.for_paths([i])(4.0, 5.0) for i in range(64)])
    different = float((later != alone).sum() + (path(5.0, 4.0) != -later).sum())
    what = "bits that differ: batch, single trajectories, backwards"
    yield bounded("brownian", "batch invariance", what, different, 0.0)
    sde = ss.SDE(lambda t, y: torch.zeros_like(y), lambda t, y: torch.ones_like(y), additive=True)
    start, ts = torch.zeros(64, 3, dtype=torch.float64), torch.tensor([0.0, 5.0], dtype=torch.float64)
    gap = float((ss.solve(sde, start, ts, dt=CELL, seed=seed).ys[-1] - path(0.0, 5.0)).abs().max())
    what = "solve of dX = dW against the path of its seed"
    yield bounded("brownian", "path of a solve", what, gap, 1e-13)


# ---- W, H and K within cells

Span = tuple[float, float]
NAMES = ("W", "H", "K")


def kernels(interval: Span, v: np.ndarray) -> np.ndarray:
    """(3, points): W, H and K of an interval are the integrals of these functions against dW.

    By the definitions H = 1/h int (W(u) - u/h W) du and K = 1/h^2 int (W(u) - u/h W) (h/2 - u) du, exchanging the order
    of integration, with x the place within the interval: 1, 1/2 - x and (x^2 - x)/2 + 1/12.
    """
    x = (v - interval[0]) / (interval[1] - interval[0])
    return np.stack([np.ones_like(x), 0.5 - x, (x * x - x) / 2 + 1 / 12])


def covariance(a: Span, b: Span) -> np.ndarray:
    """Exact covariances (3, 3) of (W, H, K) over one interval with those over another, by Ito's isometry."""
    low, high = max(a[0], b[0]), min(a[1], b[1])
    if low >= high:
        return np.zeros((3, 3))
    nodes, weights = np.polynomial.legendre.leggauss(3)  # exact up to degree 5
    v = low + (high - low) * (nodes + 1) / 2
    return (high - low) / 2 * (kernels(a, v) * weights) @ kernels(b, v).T


def triples(window: Window, interval: Span) -> np.ndarray:
    """(paths, 3): W, H and K over an interval between times of the lattice."""
    start, end = (torch.tensor([round(time / window.tick)]) for time in interval)
    inc = window(start, end)
    return np.stack([x.double().numpy() for x in inc[:3] if x is not None], -1)


def sample_size(settings: Settings) -> int:
    return 20_000 if settings.quick else 100_000


def joint_law(settings: Settings) -> Iterator[Check]:
    """Intervals within a cell, across a boundary, over several cells; of a path with cells, and of a seed's."""
    n, kind = sample_size(settings), "space-time-time"
    spans = {
        "within a cell": [(0.1 * CELL, 0.35 * CELL), (0.3 * CELL, 0.8125 * CELL)],
        "across cells": [(-0.4 * CELL, 0.3 * CELL), (0.2 * CELL, 3.7 * CELL), (CELL, 2 * CELL)],
    }
    for where, intervals in spans.items():
        path = ss.BrownianPath(settings.seed_of(where), (n,), cell=CELL, dtype=torch.float64)
        window = path.window(kind)
        sample = np.concatenate([triples(window, interval) for interval in intervals], 1)
        exact = np.block([[covariance(a, b) for b in intervals] for a in intervals])
        # in standard deviations, so that rounding does not matter for K
        scale = np.sqrt(exact.diagonal())
        law = sample / scale, np.zeros(len(scale)), exact / np.outer(scale, scale)
        yield from mean_and_covariance("brownian", where, f"of (W, H, K), intervals {where}", *law)
        for k, name in enumerate(NAMES):
            what = f"{name} is normal, {where}"
            yield kolmogorov_smirnov("brownian", f"{name}, {where}", what, law[0][:, k], stats.norm.cdf)


def rejected(window: Window, label: str, parent: Span, t: float) -> list[Check]:
    """The law of (W, H, K) over [s, t) given those over a rejected [s, u)."""
    child = parent[0], t
    whole, part = triples(window, parent), triples(window, child)
    regression = covariance(child, parent) @ np.linalg.inv(covariance(parent, parent))
    spread = covariance(child, child) - regression @ covariance(parent, child)
    z = np.linalg.solve(np.linalg.cholesky(spread), (part - whole @ regression.T).T)
    given = whole.T / np.sqrt(covariance(parent, parent).diagonal())[:, None]
    n = z.shape[1]
    checks = [
        kolmogorov_smirnov("brownian", f"{label}, {name}", f"{name} given the rejected, {label}", row, stats.norm.cdf)
        for name, row in zip(NAMES, z, strict=True)
    ]
    second = [(z[i] * z[j]).mean() for i in range(3) for j in range(i + 1)]
    exact = [float(i == j) for i in range(3) for j in range(i + 1)]
    error = [math.sqrt((1 + right) / n) for right in exact]
    labels = [f"{NAMES[i]}, {NAMES[j]}" for i in range(3) for j in range(i + 1)]
    what = f"covariance given the rejected, {label}"
    checks.append(agreement("brownian", f"{label}, covariance", what, second, exact, error, labels))
    square = lambda x: (x * x - 1) / math.sqrt(2)
    products = {
        f"{kind}{NAMES[i]}, rejected {NAMES[j]}": f(z[i]) * f(given[j])
        for kind, f in (("", lambda x: x), ("squares of ", square))
        for i in range(3)
        for j in range(3)
    }
    means, what = [float(x.mean()) for x in products.values()], f"what is new is independent of the rejected, {label}"
    checks.append(agreement("brownian", f"{label}, new", what, means, 0.0, 1 / math.sqrt(n), list(products)))
    return checks


class WrongSource(Source):
    """Halves with variances that are too large by a fifth."""

    def nodes(self, level: Tensor, index: Tensor) -> Normals:
        return Normals(*(math.sqrt(1.2) * z for z in super().nodes(level, index)))


def rejections(settings: Settings) -> Iterator[Check]:
    ids = torch.arange(sample_size(settings))
    window_of = lambda name, dtype: window_of_seed(
        settings.seed_of(name), ids, (), (0.0, 1.0), dtype, "space-time-time"
    )
    for label, dtype, parent, t in (
        ("halved", torch.float64, (0.25, 0.5), 0.375),
        ("a quarter, float32", torch.float32, (0.25, 0.75), 0.375),
        ("cut at lattice times", torch.float64, (0.1, 0.7), 0.123),
    ):
        yield from rejected(window_of(f"rejected, {label}", dtype), label, parent, t)
    wrong = window_of("wrong bridge", torch.float64)
    wrong.source = WrongSource(wrong.source.key, wrong.source.names, wrong.source.dtype)
    # all but the last, which a wrong scale does not touch
    *found, _ = rejected(wrong, "wrong bridge", (0.25, 0.5), 0.375)
    passed = float(sum(check.passed for check in found))
    what = "tests of the law after a rejection, of four, that a bridge with wrong variances passes"
    yield bounded("brownian", "wrong bridge", what, passed, 0.0)


def levy_areas(settings: Settings) -> Iterator[Check]:
    """Of Davie and Foster's approximation, for cells and for intervals that cut them; see `levy.davie_foster`."""
    n = sample_size(settings)
    path = ss.BrownianPath(settings.seed_of("areas"), (n, 2), cell=CELL, dtype=torch.float64)
    window = path.window("davie-foster")
    tick = lambda time: torch.tensor([round(time / window.tick)])
    for where, inc, h in (
        ("cells", path.cells(3, 1, "davie-foster").map(lambda x: x[0]), CELL),
        ("within cells", window(tick(0.1), tick(0.3)), 0.2),
    ):
        yield from area_law(inc, h, where)


def area_law(inc: Increment, h: float, where: str) -> Iterator[Check]:
    w, H, _, area = (None if x is None else x.numpy() for x in inc)
    a, n = area[:, 0, 1] / h, len(area)
    M = H[:, 0] * w[:, 1] - w[:, 0] * H[:, 1]
    z = (area[:, 0, 1] - M) / np.sqrt(h * h / 20 + h / 5 * (H**2).sum(1))
    yield kolmogorov_smirnov("brownian", f"area, {where}", f"area given W and H, {where}", z, stats.norm.cdf)
    # E A^4 of the approximation is 123/400, of the exact area 5/16
    yield agreement(
        "brownian",
        f"moments of areas, {where}",
        f"moments of Levy areas, {where}",
        [a.mean(), (a**2).mean(), (a**4).mean(), (z * w[:, 0]).mean() / math.sqrt(h), (a * M).mean() / h],
        [0.0, 1 / 4, 123 / 400, 0.0, 1 / 6],
        [x.std() / math.sqrt(n) for x in (a, a**2, a**4, z * w[:, 0] / math.sqrt(h), a * M / h)],
        ["mean", "second", "fourth", "with W", "with H W' - W H'"],
        samples=n,
    )


def correlation(settings: Settings) -> Iterator[Check]:
    """W, H and K of channels with a given correlation."""
    R = np.array([[1.0, 0.6, -0.3], [0.6, 1.0, 0.2], [-0.3, 0.2, 1.0]])
    shape = (10_000 if settings.quick else 100_000, 3)
    path = ss.BrownianPath(
        settings.seed_of("correlation"), shape, cell=CELL, dtype=torch.float64, correlation=R, levy="space-time-time"
    )
    for where, (s, t) in (("cells", (1.0, 1.5)), ("within cells", (0.1, 0.3))):
        inc, h = path(s, t), t - s
        scales = [math.sqrt(h / c) for c in (1, 12, 720)]
        sample = np.concatenate([x.numpy() / c for x, c in zip(inc[:3], scales, strict=True)], 1)
        law = sample, np.zeros(9), np.kron(np.eye(3), R)
        yield from mean_and_covariance("brownian", f"correlated, {where}", f"of correlated channels, {where}", *law)


def cases(settings: Settings) -> list[Case]:
    return [
        Case("known answers", known_answers),
        Case("law, float32", lambda: law(settings, torch.float32)),
        Case("law, float64", lambda: law(settings, torch.float64)),
        Case("long increments", lambda: long_increments(settings)),
        Case("independence", lambda: independence(settings)),
        Case("one path", lambda: one_path(settings)),
        Case("joint law of W, H, K", lambda: joint_law(settings)),
        Case("after a rejection", lambda: rejections(settings)),
        Case("Levy areas", lambda: levy_areas(settings)),
        Case("correlation", lambda: correlation(settings)),
    ]


BROWNIAN = Section("brownian", "Brownian increments and Levy areas: known words, their law, independence", cases)
