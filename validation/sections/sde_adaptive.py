"""Adaptive steps: errors that fall with the tolerance, what they cost, and where the steps go."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

import sdesolve as ss
from validation.check import Case, Check, Curve, Settings, bounded
from validation.order import fit_order, fit_sampled_order
from validation.sections.sde_problems import increment

F64 = torch.float64


def span(T: float) -> Tensor:
    return torch.tensor([0.0, T], dtype=F64)


def one_path(seed: int, paths: int, channels: int = 1, levy: str | None = "space-time") -> ss.BrownianPath:
    """A path of one cell: steps within it, and queries, are as short as they like."""
    return ss.BrownianPath(seed, (paths, channels), cell=1.0, levy=levy, dtype=F64)


@dataclass(frozen=True)
class Geometric:
    """dX = mu X dt + sigma X dW from 1 to time 1 (Ito)."""

    mu: float
    sigma: float

    @property
    def log_mean(self) -> float:
        return self.mu - 0.5 * self.sigma**2

    def sde(self, calculus: str) -> ss.SDE:
        rate = self.mu if calculus == "ito" else self.log_mean
        return ss.SDE(lambda t, y: rate * y, lambda t, y: self.sigma * y, calculus=calculus)

    def exact(self, path: ss.BrownianPath) -> Tensor:
        return torch.exp(self.log_mean + self.sigma * increment(path, 0.0, 1.0))


@dataclass(frozen=True)
class Known:
    """A scalar Ito SDE with its solution X_T along a path of one cell."""

    name: str
    sde: ss.SDE
    x0: float
    T: float
    exact: Callable[[ss.BrownianPath], Tensor]

    def solve(self, path: ss.BrownianPath, **how: object) -> ss.Solution:
        start = torch.full(path.shape, self.x0, dtype=F64)
        return ss.solve(self.sde, start, span(self.T), brownian=path, **how)


_STRONG = Geometric(0.5, 0.8)
GEOMETRIC = Known("geometric Brownian motion", _STRONG.sde("ito"), 1.0, 1.0, _STRONG.exact)


def verhulst(rate: float = 25.0, sigma: float = 1.0, x0: float = 0.05, T: float = 0.25, parts: int = 256) -> Known:
    """dX = r X (1 - X) dt + sigma X dW: growth at rate r, then a stiff rest at 1. With V = (r - sigma^2/2) t + sigma W

        X_T = x_0 exp(V_T) / (1 + r x_0 int exp(V) dt)                           (Kloeden & Platen 1992, (4.4.51))

    On each of the parts exp(sigma W) is expanded to second order, of W^2 the mean given (W, H) (see `logarithmic`).
    """
    a, d = rate - 0.5 * sigma**2, T / parts

    def exact(path: ss.BrownianPath) -> Tensor:
        left = total = torch.zeros(path.shape, dtype=F64)
        for k in range(parts):
            w, H, *_ = path(k * d, (k + 1) * d)
            series = 1 + sigma * (w / 2 + H) + 0.5 * sigma**2 * (w * w / 3 + w * H + 1.2 * H * H + d / 15)
            total = total + np.exp(a * k * d) * np.expm1(a * d) / a * torch.exp(sigma * left) * series
            left = left + w
        return x0 * torch.exp(a * T + sigma * left) / (1 + rate * x0 * total)

    sde = ss.SDE(lambda t, y: rate * y * (1 - y), lambda t, y: sigma * y)
    return Known("stiff Verhulst equation", sde, x0, T, exact)


def falling(
    name: str, what: str, tolerances: list[float], errors: np.ndarray, least: float, figure: str, label: str, **details
) -> Check:
    """Mean errors, (levels, paths), that fall with the tolerance, and as fast as tolerance^least at least."""
    fit = fit_sampled_order(tolerances, errors)
    means = errors.mean(1)
    curve = Curve(
        figure,
        f"{label}: {fit.order:.2f}",
        tolerances,
        means.tolist(),
        None if fit.low is None else fit.low.tolist(),
        None if fit.high is None else fit.high.tolist(),
        fit.line(),
        "tolerance",
        "E |error|",
    )
    return Check(
        "sde",
        name,
        what,
        None,
        f"monotone, slope at least {least:g}",
        fit.order,
        fit.interval,
        bool((np.diff(means) < 0).all() and fit.order >= least),
        {"tolerances": tolerances, "errors": means.tolist(), "paths": errors.shape[1], **details},
        (curve,),
    )


TOLERANCES = [1e-1, 1e-2, 1e-3, 1e-4]
SLOPE = 0.5


def strong_error(problem: Known, method: str, settings: Settings) -> Iterator[Check]:
    """The local error is h^(3/2) ~ tolerance. Whether a step is taken depends on its noise, so its error no longer has
    mean 0: the sum of them is of order h rather than h^(3/2), and falls like tolerance^(2/3)."""
    paths = 250 if settings.quick else 1000
    name = f"{method}, adaptive, {problem.name}"
    path = one_path(settings.seed_of(name), paths)
    exact = problem.exact(path)
    found = [problem.solve(path, method=method, rtol=tol, atol=tol) for tol in TOLERANCES]
    errors = np.stack([(solution.ys[-1] - exact).abs().numpy().ravel() for solution in found])
    yield falling(
        name,
        f"strong error of adaptive {method} against tolerance, {problem.name}",
        TOLERANCES,
        errors,
        SLOPE,
        "Strong error with adaptive steps",
        f"{method}, {problem.name}",
        steps=[float(solution.stats.steps.double().mean()) for solution in found],
    )


def evaluations(solution: ss.Solution) -> float:
    """Of drift and diffusion, for a path."""
    return float((solution.stats.drift_evaluations + solution.stats.diffusion_evaluations).double().mean())


TARGET, LEAST_RATIO = 1e-3, 20.0


def cost(settings: Settings) -> Iterator[Check]:
    """Evaluations at a strong error of 1e-3: of adaptive sosri, interpolated between tolerances; of Euler-Maruyama,
    extrapolated by its error C dt^(1/2), as it would take 10^5 steps."""
    paths = 1000 if settings.quick else 4000
    path = one_path(settings.seed_of("cost"), paths)
    exact = GEOMETRIC.exact(path)
    error = lambda solution: float((solution.ys[-1] - exact).abs().mean())
    adaptive = [GEOMETRIC.solve(path, method="sosri", rtol=tol, atol=tol) for tol in TOLERANCES]
    steps = [2.0**-k for k in range(5, 9)]
    fixed = [GEOMETRIC.solve(path, method="euler_maruyama", dt=dt) for dt in steps]
    work, errors = [evaluations(s) for s in adaptive], [error(s) for s in adaptive]
    euler_work, euler_errors = [evaluations(s) for s in fixed], [error(s) for s in fixed]
    # from the two nearest points, as log-log lines
    near = np.argsort(np.abs(np.log(np.array(errors) / TARGET)))[:2]
    slope, at = np.polyfit(np.log(np.array(errors)[near]), np.log(np.array(work)[near]), 1)
    needed = float(np.exp(at + slope * np.log(TARGET)))
    constant = float(np.exp(np.mean(np.log(euler_errors) - 0.5 * np.log(steps))))
    euler_needed = euler_work[-1] * steps[-1] / (TARGET / constant) ** 2
    ratio = euler_needed / needed
    title = "Evaluations against strong error, geometric Brownian motion"
    curves = [
        Curve(title, label, x, y, x_label="E |error|", y_label="evaluations a path", line=line)
        for label, x, y, line in (
            ("adaptive sosri", errors, work, None),
            ("Euler-Maruyama", euler_errors, euler_work, ([euler_errors[0], TARGET], [euler_work[0], euler_needed])),
        )
    ]
    yield Check(
        "sde",
        "cost at a strong error of 1e-3",
        "evaluations of Euler-Maruyama (extrapolated) over adaptive sosri, strong error 1e-3",
        None,
        f"at least {LEAST_RATIO:g}",
        ratio,
        None,
        ratio >= LEAST_RATIO,
        {
            "evaluations_sosri": needed,
            "evaluations_euler": euler_needed,
            "euler_order": fit_order(steps, euler_errors).order,
            "tolerances": TOLERANCES,
            "errors": errors,
            "evaluations": work,
            "euler_steps": steps,
            "euler_errors": euler_errors,
        },
        tuple(curves),
    )


CENTRE, WIDTH, WINDOW = 0.5, 0.01, 0.05
PULSE_TOLERANCES, MULTIPLE, SHARE = [1e-2, 1e-3, 1e-4], 4.0, 0.4


def pulse(t: Tensor) -> Tensor:
    """g(t) = 0.1 + exp(-((t - 1/2) / 0.01)^2)."""
    return 0.1 + torch.exp(-(((t - CENTRE) / WIDTH) ** 2))


def pulse_solution(path: ss.BrownianPath) -> Tensor:
    """X_1 = exp(-1) + int exp(t - 1) g(t) dW of dX = -X dt + g dW from 1, by (W, H) of short intervals at the pulse."""
    edges = [*np.arange(0, 30) / 64, *np.arange(30 * 32, 34 * 32) / 2048, *np.arange(34, 65) / 64]
    F = lambda t: torch.exp(t - 1) * pulse(t)
    total = torch.full(path.shape, np.exp(-1.0), dtype=F64)
    for s, t in pairwise(map(float, edges)):
        w, H, *_ = path(s, t)
        middle = torch.tensor(0.5 * (s + t), dtype=F64)
        value, slope = torch.func.jvp(F, (middle,), (torch.ones_like(middle),))
        total = total + value * w - slope * (t - s) * H
    return total


def fast_noise(settings: Settings) -> Iterator[Check]:
    """The steps go to where the noise is. dt_max is the width of the pulse: between its nodes no method sees one."""
    path = one_path(settings.seed_of("pulse"), 250 if settings.quick else 1000)
    exact = pulse_solution(path)
    for method in ("sosra", "sra1"):
        errors, shares = [], []
        for tol in PULSE_TOLERANCES:
            times: list[Tensor] = []

            def g(t: Tensor, y: Tensor, times: list[Tensor] = times) -> Tensor:
                times.append(t.reshape(-1))
                return pulse(t).expand(y.shape)

            sde = ss.SDE(lambda t, y: -y, g, additive=True)
            control = ss.PID(rtol=0.0, atol=tol, dt_max=WIDTH)
            start = torch.ones(path.shape, dtype=F64)
            end = ss.solve(sde, start, span(1.0), method=method, controller=control, brownian=path).ys[-1]
            errors.append(float((end - exact).abs().mean()))
            seen = torch.cat(times)
            shares.append(float(((seen - CENTRE).abs() < WINDOW).double().mean()))
        worst = max(error / tol for error, tol in zip(errors, PULSE_TOLERANCES, strict=True))
        details = {"tolerances": PULSE_TOLERANCES, "errors": errors, "paths": path.shape[0]}
        name = f"{method}, adaptive, noise of a short pulse"
        what = f"E|error| over tolerance, adaptive {method}, noise of a short pulse"
        yield bounded("sde", name, what, worst, MULTIPLE, **details)
        yield Check(
            "sde",
            f"{name}, steps",
            f"share of the evaluations in the tenth of the time at the pulse, adaptive {method}, tol = {tol:g}",
            None,
            f"at least {SHARE:g}",
            shares[-1],
            None,
            shares[-1] >= SHARE,
            {"tolerances": PULSE_TOLERANCES, "shares": shares},
        )


def cases(settings: Settings) -> list[Case]:
    found = []
    for problem, method in ((GEOMETRIC, "sosri"), (GEOMETRIC, "sriw1"), (verhulst(), "sosri")):
        found.append(Case(f"{method}, adaptive, {problem.name}", partial(strong_error, problem, method, settings)))
    found.append(Case("cost", partial(cost, settings)))
    found.append(Case("pulse", partial(fast_noise, settings)))
    return found
