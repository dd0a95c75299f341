"""Densities of the equations of diffusion in one dimension, by `validation.fokker_planck`.

The Fokker-Planck equation of the package's own forward and reverse SDEs, started from the exact density, against the
exact density of a mixture at every step; and simulations against the Fokker-Planck densities: of these equations, and
of an equation with multiplicative noise in a double well, whose density no formula gives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import diffusion
import sdesolve as ss
from diffusion.process import Process
from validation.check import Case, Check, Curve, Settings, bounded
from validation.fokker_planck import Cells, Coefficient, Densities, fokker_planck, transported
from validation.sections.diffusion_processes import ETAS, PROCESSES, STEPS, Normals, grid, solved, time
from validation.significance import histogram, kolmogorov_smirnov

Array = NDArray[np.float64]

MIXTURE = Normals(np.array([0.3, 0.7]), np.array([[-1.0], [0.8]]), np.full((2, 1, 1), 0.09))
BOUND = 1e-3
SPACING, CORE = 0.005, 1.5
"""Of the cells: widths are SPACING max(|x|, CORE), roughly."""
QUICK = "RectifiedFlow", "Affine"
SIMULATED = "VP", "Affine"
PATHS, QUICK_PATHS = 40_000, 5_000
BINS = 40
LOG_SNR = 10.0
"""Where the first step of a forward equation ends: at 0.7 percent of noise."""

Reverse = Callable[[Process, Callable[[Tensor, Tensor], Tensor], float], ss.SDE]


def score(process: Process, t: Tensor, x: Tensor) -> Tensor:
    """d log p_t / dx of the mixture, of each element."""
    weights, means = torch.from_numpy(MIXTURE.weights), torch.from_numpy(MIXTURE.means[:, 0])
    alpha = process.alpha(t)[..., None]
    variance = alpha**2 * torch.from_numpy(MIXTURE.covariances[:, 0, 0]) + process.variance(t)[..., None]
    offset = x[..., None] - alpha * means - process.shift(t)[..., None]
    chosen = torch.softmax(torch.log(weights / variance.sqrt()) - offset**2 / (2 * variance), -1)
    return -(chosen * offset / variance).sum(-1)


def coefficient(function: Callable[[Tensor, Tensor], Tensor]) -> Coefficient:
    """A function of tensors as one of arrays."""

    def of(t: Array, x: Array) -> Array:
        states = torch.from_numpy(x).expand(len(t), len(x))
        with torch.no_grad():
            return function(torch.from_numpy(t), states).expand(states.shape).numpy()

    return of


def density(sde: ss.SDE, cells: Cells, masses: Array, ts: Array) -> Densities:
    return fokker_planck(coefficient(sde.drift), coefficient(sde.diffusion), cells, masses, ts)


def law(process: Process, t: float) -> Callable[[Array], Array]:
    """The exact distribution function of x_t."""
    return MIXTURE.at(process, t).cdf(np.ones(1))


def cells_of(process: Process, spacing: float = SPACING) -> Cells:
    """Cells that hold all marginals up to eight standard deviations."""
    found = [MIXTURE.at(process, share * process.rates_end) for share in np.linspace(0, 1, 33)]
    reach = max(float(np.abs(each.means).max() + 8 * np.sqrt(each.covariances.max())) for each in found)
    return Cells.graded(reach, round(2 * np.arcsinh(reach / CORE) / spacing), CORE)


def forward_times(process: Process) -> Array:
    return np.concatenate([[0.0], grid(process, STEPS[1.0], LOG_SNR).numpy()[::-1]])


def distances(process: Process, sde: ss.SDE, ts: Array) -> tuple[Densities, Array]:
    """The densities of an equation, and how far each is from the exact one in L1: in the masses of the cells."""
    cells = cells_of(process)
    found = density(sde, cells, cells.masses(law(process, ts[0])), ts)
    exact = np.stack([cells.masses(law(process, t)) for t in ts])
    return found, np.abs(found.masses - exact).sum(1)


def exact_densities(name: str, equation: Reverse = diffusion.reverse_sde) -> Iterator[Check]:
    """Forward, and backwards with every eta: the equations have the marginals that they should have."""
    process = PROCESSES[name]
    problems = {"forward": (process.forward_sde(), forward_times(process))}
    for eta in ETAS:
        sde = equation(process, partial(score, process), eta)
        problems[f"reverse, eta = {eta:g}"] = sde, grid(process, STEPS[1.0]).numpy()
    for kind, (sde, ts) in problems.items():
        found, away = distances(process, sde, ts)
        what = f"Fokker-Planck density from the exact one in L1, worst of all times, {name}, {kind}"
        measured = float(away.max())
        details = {"steps": len(ts) - 1, "cells": len(found.cells.widths), "leak": found.leak, "cut": found.cut}
        yield bounded("diffusion", f"{name}, {kind}, Fokker-Planck", what, measured, BOUND, **details)
    yield flow_density(name, process)


def flow_density(name: str, process: Process) -> Check:
    """The same of the probability flow, whose cells move."""
    ts, cells = grid(process, STEPS[0.0]).numpy()[[0, -1]], cells_of(process, 4 * SPACING)
    ode = diffusion.probability_flow(process, partial(score, process))
    moved = Cells(transported(coefficient(ode.f), cells, ts)[-1])
    away = float(np.abs(cells.masses(law(process, ts[0])) - moved.masses(law(process, ts[-1]))).sum())
    what = f"transported density from the exact one in L1, {name}, probability flow"
    return bounded("diffusion", f"{name}, probability flow, transported", what, away, BOUND, cells=len(cells.widths))


@dataclass(frozen=True)
class Simulated:
    """A sample, with the masses of cells that it should have."""

    name: str
    x: Array
    cells: Cells
    masses: Array

    def checks(self, figure: str, label: str, exact: Normals | None = None) -> Iterator[Check]:
        """The distribution function, and a histogram."""
        cdf = self.cells.cdf(self.masses)
        what = f"simulated, against the Fokker-Planck density, {self.name}"
        yield kolmogorov_smirnov("diffusion", f"{self.name}, law", what, self.x, cdf)
        rising = np.cumsum(self.masses)
        low, high = (self.cells.centres[np.searchsorted(rising, share)] for share in (1e-4, 1 - 1e-4))
        edges = np.linspace(low, high, BINS - 1)
        p = np.diff(np.concatenate([[0.0], cdf(edges), [1.0]]))
        counts = np.bincount(np.searchsorted(edges, self.x), minlength=BINS)
        curves = self.curves(figure, label, edges, counts[1:-1], exact)
        yield histogram("diffusion", f"{self.name}, histogram", f"histogram, {what}", counts, p, curves)

    def curves(self, figure: str, label: str, edges: Array, counts: Array, exact: Normals | None) -> tuple[Curve, ...]:
        """The histogram with its intervals over the exact density, and the Fokker-Planck density."""
        share, width = counts / len(self.x), edges[1] - edges[0]
        middles, error = 0.5 * (edges[1:] + edges[:-1]), 2 * np.sqrt(share * (1 - share) / len(self.x))
        low, high = (share - error) / width, (share + error) / width
        fine = np.linspace(edges[0], edges[-1], 200)
        values = np.interp(fine, self.cells.centres, self.masses / self.cells.widths)
        if exact is not None:
            spread = np.sqrt(exact.covariances[:, 0, 0])
            z = (fine[:, None] - exact.means[:, 0]) / spread
            right = (np.exp(-0.5 * z * z) / (np.sqrt(2 * np.pi) * spread)) @ exact.weights
        line = None if exact is None else (fine.tolist(), right.tolist())
        axes = {"x_label": "x", "y_label": "density", "log": False}
        drawn = middles.tolist(), (share / width).tolist(), low.tolist(), high.tolist()
        simulated = Curve(figure, f"{label}, simulated" + ", exact" * (exact is not None), *drawn, line, **axes)
        every = slice(None, None, 10)
        planck = Curve(figure, f"{label}, Fokker-Planck", fine[every].tolist(), values[every].tolist(), **axes)
        return simulated, planck


def simulated(name: str, eta: float | None, settings: Settings) -> Iterator[Check]:
    """An equation's simulation against its own Fokker-Planck density, early and late; eta None: forward."""
    process, kind = PROCESSES[name], "forward" if eta is None else f"reverse, eta = {eta:g}"
    paths = QUICK_PATHS if settings.quick else PATHS
    ts, data = grid(process, STEPS[eta]), MIXTURE.data
    if eta is None:
        ts = torch.cat([time(0.0)[None], ts.flip(0)])
        start, sde = data.sample(paths, seed=settings.seed_of(f"{name}, data, line")), process.forward_sde()
        planck = density_between(process, sde, ts)
    else:
        seed = settings.seed_of(f"{name}, {kind}, start, line")
        start = data.at(process, process.rates_end).sample(paths, seed=seed)
        sde = diffusion.reverse_sde(process, data.denoiser(process), eta)
        planck = density_between(process, diffusion.reverse_sde(process, partial(score, process), eta), ts)
    ys = solved(sde, start, ts, settings.seed_of(f"{name}, {kind}, line"))
    for k in (len(ts) // 2, len(ts) - 1):
        t = float(ts[k])
        found = Simulated(f"{name}, {kind}, t = {t:.3g}", ys[k, :, 0].numpy(), planck.cells, planck.masses[k])
        figure = f"Densities of {name}, " + ("forward" if eta is None else "reverse")
        label = f"t = {t:.3g}" if eta is None else f"eta = {eta:g}, t = {t:.3g}"
        yield from found.checks(figure, label, MIXTURE.at(process, t))


def density_between(process: Process, sde: ss.SDE, ts: Tensor) -> Densities:
    cells, times = cells_of(process), ts.numpy()
    return density(sde, cells, cells.masses(law(process, times[0])), times)


# ---- an equation without a density in closed form


def double_well() -> ss.SDE:
    """dx = (x - x^3) dt + (1 + sin(2 x) / 2) / 2 dw."""
    return ss.SDE(lambda t, x: x - x**3, lambda t, x: 0.5 + 0.25 * torch.sin(2 * x))


WELL_CELLS, WELL_START, WELL_TIMES = Cells.graded(4.0, 1600, 10.0), (-0.3, 0.2), (0.5, 1.5, 4.0)


def well_densities(sde: ss.SDE) -> tuple[Densities, list[int]]:
    """From a normal law on, and the indices of `WELL_TIMES`."""
    middle, spread = WELL_START
    start = Normals(np.ones(1), np.array([[middle]]), np.array([[[spread**2]]]))
    ts = np.linspace(0, WELL_TIMES[-1], 401)
    found = density(sde, WELL_CELLS, WELL_CELLS.masses(start.cdf(np.ones(1))), ts)
    return found, [int(np.abs(ts - t).argmin()) for t in WELL_TIMES]


def well(settings: Settings, method: str = "sosri", sde: Callable[[], ss.SDE] = double_well) -> Iterator[Check]:
    """Simulations in the double well, whose noise depends on the state, early and when both wells are full."""
    planck, at = well_densities(double_well())
    paths, seed = 5_000 if settings.quick else 40_000, settings.seed_of("double well, density")
    normals = diffusion.prior.trajectory_normals(seed, "start", (paths, 1), dtype=torch.float64)
    ts = torch.tensor([0.0, *WELL_TIMES], dtype=torch.float64)
    ys = ss.solve(sde(), WELL_START[0] + WELL_START[1] * normals, ts, method=method, dt=0.02, seed=seed).ys
    for k, x, t in zip(at, ys[1:], WELL_TIMES, strict=True):
        found = Simulated(
            f"double well, multiplicative noise, t = {t:g}", x[:, 0].numpy(), WELL_CELLS, planck.masses[k]
        )
        yield from found.checks("Density in a double well with multiplicative noise", f"t = {t:g}")


def cases(settings: Settings) -> list[Case]:
    exact, drawn = (QUICK, QUICK[:1]) if settings.quick else (tuple(PROCESSES), SIMULATED)
    etas = (None, 1.0) if settings.quick else (None, *ETAS)
    return [
        *(Case(f"{name}, Fokker-Planck", partial(exact_densities, name)) for name in exact),
        *(
            Case(f"{name}, {'forward' if eta is None else f'reverse, eta = {eta:g}'}, density", of)
            for name in drawn
            for eta in etas
            for of in [partial(simulated, name, eta, settings)]
        ),
        Case("double well, density", partial(well, settings)),
    ]
