"""Heun's method with adaptive steps and noise that does not commute: no bias of the Levy area.

    dX_1 = dW_1,  dX_2 = X_1 o dW_2,      so that  X_2 - W_1 W_2/2  is the Levy area of W

A step of Heun's method changes X_2 by (X_1 + W_1/2) W_2: X_2 is the integral along the polygon through the times of the
steps. Leaving out a time between two others, with increments b and c before and after it, takes b x c / 2 =
(b_1 c_2 - b_2 c_1)/2 away from it. Given b + c alone this has mean 0; given that someone has looked at the time and
decided to go past it, it need not. Foster & Jelincic (arXiv 2311.14201) prove convergence where all times that were
looked at are visited, and show that a wrong limit is possible where they are not.

An example of such a limit, made for this check: blocks of three cells, with increments a, b, c of variance k.

    - try both first cells; reject the step if a_1 + b_1 > 0, otherwise take it, and then the third cell
    - after a rejection take the first cell, then try the other two: take them at once if b_2 + c_2 > 0

The last step goes past a time that was looked at, and loses

    E b x c / 2 = E[b_1; a_1 + b_1 > 0] E[c_2; b_2 + c_2 > 0] / 2 = (k / (4 pi)) / 2,     E[c_1; ...] = 0

in a block of length 3 k. So E X_2(T) = -T / (24 pi), however short the cells are, instead of 0.

It takes two different rules. With one set D for both steps, f(b) = P(a + b in D) gives E[f(b) b x grad f(b)], which
is 0, as b x grad is the derivative along a rotation and the law of b is the same in all directions. With |W_1 W_2| as
the error, which is Heun's own here, all is symmetric under W_1 -> -W_1 besides.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

import sdesolve as ss
from sdesolve.brownian.levy import Increment
from sdesolve.methods import Increments, Method, State, Step
from sdesolve.methods.stratonovich_heun import StratonovichHeun
from sdesolve.system import System
from validation.check import Case, Check, Settings
from validation.sections.sde_adaptive import falling, one_path, span
from validation.sections.sde_problems import increment
from validation.significance import agreement

BIAS = -1 / (24 * math.pi)


def area_sde() -> ss.SDE:
    """dX_1 = dW_1, dX_2 = X_1 o dW_2."""

    def diffusion(t: Tensor, y: Tensor) -> Tensor:
        one, zero = torch.ones_like(y[:, 0]), torch.zeros_like(y[:, 0])
        return torch.stack([torch.stack([one, zero], -1), torch.stack([zero, y[:, 0]], -1)], 1)

    return ss.SDE(lambda t, y: torch.zeros_like(y), diffusion, noise="general", calculus="stratonovich")


def cross(a: Tensor, b: Tensor) -> Tensor:
    """a x b = a_1 b_2 - a_2 b_1."""
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


class OneSidedHeun(StratonovichHeun):
    """Heun's method with the verdicts of the example on steps of two cells, in blocks of three from time 0.

    A step that is rejected is tried again with 0.9 / 1.79 of its length, whose end is rounded down to a cell's.
    """

    name, cell = "heun", 1 / 32

    def step(self, system: System, state: State, inc: Increments, *, error: bool = False, dense: bool = False) -> Step:
        found = super().step(system, state, inc)
        if not error:
            return found
        assert inc.w is not None
        place = (inc.t0 / self.cell).round() % 3
        first, second = inc.w.split(1, dim=1)
        wrong = torch.where(place == 0, first > 0, (place == 2) | (second <= 0))
        wild = wrong & (inc.h > 1.5 * self.cell)
        return found._replace(error=torch.where(wild, 1.79, 0.01).to(state.y).expand(state.y.shape))


def reference(path: ss.BrownianPath, parts: int) -> Tensor:
    """The Levy area of W over [0, 1] from (W, H) of its parts; of each the mean given them, H_1 W_2 - H_2 W_1."""
    at = torch.zeros(path.shape, dtype=torch.float64)
    total = at[:, 0]
    for k in range(parts):
        inc = path(k / parts, (k + 1) / parts)
        assert isinstance(inc, Increment) and inc.w is not None and inc.H is not None
        total = total + 0.5 * cross(at, inc.w) + cross(inc.H, inc.w)
        at = at + inc.w
    return total


def solved(path: ss.BrownianPath, method: str | Method, control: ss.PID, dt: float | None = None) -> ss.Solution:
    start = torch.zeros(path.shape, dtype=torch.float64)
    return ss.solve(area_sde(), start, span(1.0), method=method, controller=control, dt=dt, brownian=path)


def skipping(settings: Settings) -> Iterator[Check]:
    """The example above on the cells of a path: what X_2 of its steps lacks of X_2 of all cells."""
    paths, blocks = (10_000, 64) if settings.quick else (40_000, 128)
    seed, cell = settings.seed_of("steps that skip"), 1 / (3 * blocks)
    path = ss.BrownianPath(seed, (paths, 2), cell=cell, dtype=torch.float64)
    skipped, nested = torch.zeros(paths, dtype=torch.float64), torch.zeros(paths, dtype=torch.float64)
    for block in range(blocks):
        a, b, c = path.increments(3 * block, 3)
        rejected, joined = (a + b)[:, 0] > 0, (b + c)[:, 1] > 0
        taken = torch.where(rejected, 0.0, 0.5 * cross(a, b))
        nested -= taken
        skipped -= taken + torch.where(rejected & joined, 0.5 * cross(b, c), 0.0)
    for name, what, found, expected in (
        ("steps that skip a rejected time", "E X_2 of Heun steps that skip rejected times: -1/(24 pi)", skipped, BIAS),
        ("steps that visit rejected times", "E X_2 of Heun steps that visit rejected times: 0", nested, 0.0),
    ):
        error = float(found.std()) / paths**0.5
        yield agreement("sde", name, what, float(found.mean()), expected, error, ["X_2"], paths=paths, cell=cell)


def unbiased(settings: Settings) -> Iterator[Check]:
    """E[X_2 | W_T] of adaptive Heun, with its own error and with a one-sided one, by test functions of W_T."""
    paths = 5000 if settings.quick else 40_000
    path = one_path(settings.seed_of("unbiased"), paths, 2)
    W = increment(path, 0.0, 1.0)
    product = W[:, 0] * W[:, 1]
    exact = reference(path, 32) + 0.5 * product
    tests = {"1": torch.ones_like(product), "W_1 W_2": product, "W_1^2 - W_2^2": W[:, 0] ** 2 - W[:, 1] ** 2}
    one_sided = OneSidedHeun()
    longest = 2 * one_sided.cell
    for what, solution in (
        ("adaptive heun", solved(path, "heun", ss.PID(rtol=0.0, atol=0.1))),
        (
            "adaptive heun with a one-sided error",
            solved(path, one_sided, ss.PID(rtol=0.0, atol=1.0, dt_max=longest), longest),
        ),
    ):
        errors = solution.ys[-1][:, 1] - exact
        values = torch.stack([errors * test for test in tests.values()])
        yield agreement(
            "sde",
            f"{what}, Levy area",
            f"E[(X_2 - exact) f(W)] = 0, {what}, not commutative",
            values.mean(1).numpy(),
            0.0,
            (values.std(1) / paths**0.5).numpy(),
            [f"f = {name}" for name in tests],
            paths=paths,
            bias_that_skipping_could_have=BIAS,
            rejected=float(solution.stats.rejected.double().mean()),
            steps=float(solution.stats.steps.double().mean()),
        )


TOLERANCES = [0.3, 0.1, 0.03, 0.01]
SLOPE = 0.5


def convergence(settings: Settings) -> Iterator[Check]:
    """E|X_2 - exact|^2 falls like the step, and the local error h ~ tolerance."""
    paths, parts = (1000, 256) if settings.quick else (4000, 1024)
    path = one_path(settings.seed_of("convergence"), paths, 2)
    W = increment(path, 0.0, 1.0)
    exact = reference(path, parts) + 0.5 * W[:, 0] * W[:, 1]
    found = [solved(path, "heun", ss.PID(rtol=0.0, atol=tol)) for tol in TOLERANCES]
    errors = np.stack([(solution.ys[-1][:, 1] - exact).square().numpy() for solution in found])
    yield falling(
        "heun, adaptive, not commutative",
        "E|error|^2 of adaptive heun against tolerance, noise that does not commute",
        TOLERANCES,
        errors,
        SLOPE,
        "Mean square error with adaptive steps, noise that does not commute",
        "heun",
        steps=[float(solution.stats.steps.double().mean()) for solution in found],
        reference=f"(W, H) of {parts} parts",
    )


def cases(settings: Settings) -> list[Case]:
    return [
        Case("steps that skip", lambda: skipping(settings)),
        Case("Levy area", lambda: unbiased(settings)),
        Case("convergence, not commutative", lambda: convergence(settings)),
    ]
