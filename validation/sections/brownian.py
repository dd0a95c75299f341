"""Brownian increments: known words, their law, and independence."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from scipy import stats
from torch import Tensor

import sdesolve as ss
from sdesolve.brownian import philox4x32
from validation.check import Case, Check, Section, Settings, bounded
from validation.significance import agreement, kolmogorov_smirnov

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


def cases(settings: Settings) -> list[Case]:
    return [
        Case("known answers", known_answers),
        Case("law, float32", lambda: law(settings, torch.float32)),
        Case("law, float64", lambda: law(settings, torch.float64)),
        Case("long increments", lambda: long_increments(settings)),
        Case("independence", lambda: independence(settings)),
        Case("one path", lambda: one_path(settings)),
    ]


BROWNIAN = Section("brownian", "Brownian increments: known words, their law, independence", cases)
