"""The Ito integral: W dW, its Stratonovich counterpart, and the isometry."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

import sdesolve as ss
from validation.check import Case, Check, Curve, Section, Settings, bounded
from validation.order import fit_sampled_order, order_check
from validation.significance import agreement

T = 1.0
ORDER_BOUND = 0.1
INTEGRANDS = ("cos W", "cos 2 W")


def integral_of_w(calculus: str) -> ss.SDE:
    """The pair (W, I) with dI = W dW or W o dW, driven by one Brownian motion."""
    return ss.SDE(
        lambda t, y: torch.zeros_like(y),
        lambda t, y: torch.stack([torch.ones_like(y[:, 0]), y[:, 0]], 1),
        noise="scalar",
        calculus=calculus,
    )


def integrate(sde: ss.SDE, path: ss.BrownianPath, dt: float) -> Tensor:
    """(W_T, I_T), (n, 2), by Euler-Maruyama or Heun."""
    start = torch.zeros(path.shape[0], 2, dtype=torch.float64)
    ts = torch.tensor([0.0, T], dtype=torch.float64)
    method = "heun" if sde.calculus == "stratonovich" else "euler_maruyama"
    return ss.solve(sde, start, ts, method=method, dt=dt, brownian=path).ys[-1]


def path_of(settings: Settings, name: str, cell: float) -> ss.BrownianPath:
    paths = 10_000 if settings.quick else 50_000
    return ss.BrownianPath(settings.seed_of(name), (paths, 1), cell=cell, dtype=torch.float64)


def ito_integral(settings: Settings) -> Iterator[Check]:
    """Euler-Maruyama gives I^h = sum W_k dW_k, and

    I^h - I = (T - sum dW_k^2)/2,     E|I^h - I|^2 = sum h^2/2 = T h/2   exactly,

    with I = (W_T^2 - T)/2 (Oksendal 2003, Stochastic differential equations, example 3.1.9).
    """
    steps = [2.0**-k for k in range(3, 9)]
    path = path_of(settings, "ito integral", steps[-1])
    W = path(0.0, T)[:, 0]
    exact = 0.5 * (W**2 - T)
    errors = [(integrate(integral_of_w("ito"), path, h)[:, 1] - exact).numpy() for h in steps]
    squares = np.stack([error**2 for error in errors])
    yield order_check(
        "ito",
        "integral of W dW, order",
        "order of E|error|^2 of the Ito integral of W dW",
        fit_sampled_order(steps, squares, seed=settings.seed),
        1.0,
        ORDER_BOUND,
        figure="Ito integral of W dW",
        label="E |error|^2",
        y_label="E |error|^2",
        paths=W.numel(),
    )
    n = W.numel()
    yield agreement(
        "ito",
        "integral of W dW, mean square",
        "E|error|^2 = T h/2",
        squares.mean(1),
        [T * h / 2 for h in steps],
        [math.sqrt(fourth_moment(h) - (T * h / 2) ** 2) / math.sqrt(n) for h in steps],
        [f"h = 1/{round(1 / h)}" for h in steps],
        paths=n,
    )


def fourth_moment(h: float) -> float:
    """E|I - I^h|^4 for Q = sum (dW_k^2 - h)/2: of N terms with variance h^2/2 and fourth moment 60 h^4/16."""
    count = T / h
    return count * 60 * h**4 / 16 + 3 * count * (count - 1) * (h**2 / 2) ** 2


def stratonovich_integral(settings: Settings) -> Iterator[Check]:
    """Heun gives sum (W_k + W_{k+1})/2 dW_k = W_T^2/2, exactly for every step size."""
    path = path_of(settings, "stratonovich integral", 2.0**-6)
    W = path(0.0, T)[:, 0]
    for h in (1.0, 2.0**-3, 2.0**-6):
        I = integrate(integral_of_w("stratonovich"), path, h)[:, 1]  # noqa: E741
        error = float((I - 0.5 * W**2).abs().max())
        what = f"integral of W o dW is W_T^2/2, h = 1/{round(1 / h)}"
        yield bounded("ito", f"integral of W o dW, h = 1/{round(1 / h)}", what, error, 1e-12)


def isometry(settings: Settings) -> Iterator[Check]:
    """E int f dW = 0 and E (int f dW)^2 = E int f^2 dt, for f = cos W and f = cos 2 W.

    For the sums that Euler-Maruyama makes, both hold with int f^2 dt = h sum f(W_k)^2, so there is no bias:

    E cos^2 c W_k = (1 + exp(-2 c^2 t_k))/2     (Oksendal 2003, corollary 3.1.7)

    Such f, near 1 at first, so that the integrals have light tails and the z-tests their level.
    """
    count = 64
    path = path_of(settings, "isometry", T / count)
    sde = ss.SDE(
        lambda t, y: torch.zeros_like(y),
        lambda t, y: torch.stack([torch.ones_like(y[:, 0]), torch.cos(y[:, 0]), torch.cos(2 * y[:, 0])], 1),
        noise="scalar",
    )
    start = torch.zeros(path.shape[0], 3, dtype=torch.float64)
    ts = torch.linspace(0, T, 9, dtype=torch.float64)
    how = {"method": "euler_maruyama", "dt": T / count, "brownian": path}
    integrals = ss.solve(sde, start, ts, **how).ys[1:, :, 1:].numpy()
    t = np.arange(count) * T / count
    squares = 0.5 * np.stack([1 + np.exp(-2 * t), 1 + np.exp(-8 * t)], 1)
    expected = (np.cumsum(squares, 0) * T / count)[count // 8 - 1 :: count // 8]
    n = integrals.shape[1]
    labels = [f"f = {f}, t = {s:g}" for s in ts[1:].tolist() for f in INTEGRANDS]
    means, second = integrals.mean(1), (integrals**2).mean(1)
    yield agreement("ito", "isometry, mean", "E int f dW = 0", means, 0.0, np.sqrt(expected / n), labels, paths=n)
    # the fourth moment is estimated: no closed form is at hand
    error = (integrals**2).std(1, ddof=1) / math.sqrt(n)
    curves = tuple(
        Curve(
            "Ito isometry",
            f"f = {f}",
            ts[1:].tolist(),
            second[:, k].tolist(),
            (second[:, k] - 1.96 * error[:, k]).tolist(),
            (second[:, k] + 1.96 * error[:, k]).tolist(),
            (ts[1:].tolist(), expected[:, k].tolist()),
            "t",
            "E (int f dW)^2",
            log=False,
        )
        for k, f in enumerate(INTEGRANDS)
    )
    yield agreement(
        "ito",
        "isometry, variance",
        "E (int f dW)^2 = E int f^2 dt",
        second,
        expected,
        error,
        labels,
        curves,
        paths=n,
    )


def cases(settings: Settings) -> list[Case]:
    return [
        Case("integral of W dW", lambda: ito_integral(settings)),
        Case("integral of W o dW", lambda: stratonovich_integral(settings)),
        Case("isometry", lambda: isometry(settings)),
    ]


ITO = Section("ito", "the Ito integral of W dW, its Stratonovich counterpart, the isometry", cases)
