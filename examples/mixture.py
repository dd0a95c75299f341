"""A mixture of normals under diffusion: everything that is learned elsewhere is known here.

    python examples/mixture.py --process vp --output out/mixture

A forward process turns the mixture p_0 into p_t, another mixture, whose score grad log p_t is known at every time. With
it each member of the family

    dx = [f x + b - (1 + eta^2)/2 g^2 score] dt + eta g dw,      eta = 0: the probability flow; eta = 1: the reverse SDE

leads from p_T back to p_0, through the same p_t: the picture shows scores, paths from the same noise for several eta,
and where they end. Last, a small network learns the score from draws, and is compared with it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import torch
from matplotlib.axes import Axes
from torch import Tensor

import diffusion
import sdesolve as ss
from diffusion.exact import Gaussian, GaussianMixture

matplotlib.use("Agg")
import matplotlib.pyplot as plt

PROCESSES: dict[str, diffusion.Process] = {
    "vp": diffusion.VP(),
    "subvp": diffusion.SubVP(),
    "ve": diffusion.VE(sigma_max=20.0),
    "cosine": diffusion.Cosine(),
    "flow": diffusion.RectifiedFlow(),
}
ETAS = (0.0, 0.5, 1.0, 1.5)
SHOWN = (5.0, 2.0, 0.0, -3.0)  # log_snr of the scores in the picture
FEWEST, MOST = -4.0, 9.0  # log_snr between which paths and errors are looked at
T_MIN = 1e-4
PATHS = 12
F64 = torch.float64


def mixture() -> GaussianMixture:
    """Four components, of which two overlap."""
    means = torch.tensor([[-2.0, 0.5], [-1.0, 1.5], [1.5, 1.0], [0.5, -1.5]], dtype=F64)
    covariances = torch.tensor(
        [
            [[0.15, 0.1], [0.1, 0.15]],
            [[0.1, 0.0], [0.0, 0.3]],
            [[0.25, -0.2], [-0.2, 0.25]],
            [[0.6, 0.0], [0.0, 0.05]],
        ],
        dtype=F64,
    )
    return GaussianMixture(means, covariances, torch.tensor([0.2, 0.2, 0.35, 0.25], dtype=F64))


def marginal(law: GaussianMixture, x: Tensor) -> tuple[Tensor, Tensor]:
    """Density and distribution function of the first component at the points x, (n,)."""
    components = torch.distributions.Normal(law.means[:, 0], law.covariances[:, 0, 0].sqrt())
    weights = law.log_weights.exp()
    return components.log_prob(x[:, None]).exp() @ weights, components.cdf(x[:, None]) @ weights


def distance(law: GaussianMixture, x: Tensor) -> float:
    """Kolmogorov's: the greatest difference of distribution functions, times sqrt(n). Above 1.95 in one of a thousand
    samples of the law."""
    ordered, n = x.sort().values, len(x)
    below = marginal(law, ordered)[1]
    steps = torch.arange(n + 1, dtype=F64) / n
    return float(torch.maximum(steps[1:] - below, below - steps[:-1]).max()) * n**0.5


def equation(process: diffusion.Process, denoiser: diffusion.Denoiser, eta: float) -> ss.SDE | ss.ODE:
    if eta == 0:
        return diffusion.probability_flow(process, denoiser)
    return diffusion.reverse_sde(process, denoiser, eta)


def paths(exact: diffusion.exact.ExactDenoiser, noise: Tensor, log_snr: Tensor, seed: int) -> dict[float, Tensor]:
    """For each eta where the noise goes, (T, batch, 2), at rising log_snr; all SDEs have the same Brownian paths."""
    times = exact.process.time_of_log_snr(log_snr)
    found = {}
    for eta in ETAS:
        problem = equation(exact.process, exact, eta)
        found[eta] = ss.solve(problem, noise, times, dt=1.0, seed=seed if eta else None).ys  # a step from time to time
    return found


def samples(exact: diffusion.exact.ExactDenoiser, count: int, seed: int) -> dict[float, Tensor]:
    """For each eta, draws (count, 2) from the law at T_MIN, begun with the same draws from that at the end; steps are
    equal in log_snr, the clock by which the score changes, whatever the process."""
    process = exact.process
    first, last = process.log_snr(torch.tensor([process.rates_end, T_MIN], dtype=F64)).tolist()
    times = process.time_of_log_snr(torch.linspace(first, last, 201, dtype=F64))
    noise = exact.mixture.at(process, float(times[0])).sample(count, seed=seed)

    def draw(sampler: str, eta: float | None) -> Tensor:
        return diffusion.sample(exact, (count, 2), sampler=sampler, eta=eta, grid=times, prior=noise, seed=seed)

    return {eta: draw("reverse_sde", eta) if eta else draw("probability_flow", None) for eta in ETAS}


def learn(process: diffusion.Process, data: Tensor, steps: int, seed: int) -> diffusion.Denoiser:
    """A small network between the scalings of Karras et al., trained with the weight of the likelihood."""
    torch.manual_seed(seed)
    net = diffusion.network.MLP(2, width=64)
    denoiser = diffusion.Denoiser(net, process, prediction="edm", sigma_data=float(data.std(0).mean()))
    ends = process.time_of_log_snr(torch.tensor([MOST, FEWEST], dtype=F64)).tolist()
    loss = diffusion.DenoisingLoss("likelihood", "log_snr", *ends)
    return diffusion.fit(
        denoiser, data.float(), steps=steps, batch_size=512, lr=1e-2, warmup=20, ema=0.99, loss=loss, seed=seed
    ).denoiser


@torch.no_grad()
def errors(
    exact: diffusion.exact.ExactDenoiser,
    denoisers: Sequence[diffusion.Denoiser],
    log_snr: Tensor,
    count: int,
    seed: int,
) -> Tensor:
    """E |sigma (score - exact score)|^2 at each log_snr, over draws of p_t: (denoisers, T)."""
    process, found = exact.process, []
    for t in process.time_of_log_snr(log_snr):
        x = exact.mixture.at(process, float(t)).sample(count, seed=seed)
        wanted = exact.noise(t, x)
        found.append([d.noise(t, x.to(_dtype(d))).sub(wanted).square().sum(1).mean() for d in denoisers])
    return torch.tensor(found, dtype=F64).T


def _dtype(denoiser: diffusion.Denoiser) -> torch.dtype:
    return next(iter([*denoiser.parameters(), *denoiser.buffers()])).dtype


def draw_score(axes: Axes, exact: diffusion.exact.ExactDenoiser, log_snr: float) -> None:
    """The score, as arrows, over the density of p_t."""
    process = exact.process
    t = float(process.time_of_log_snr(torch.tensor(log_snr, dtype=F64)))
    law = exact.mixture.at(process, t)
    spread = float(law.means.abs().max() + 2 * law.variances.max().sqrt())
    fine, coarse = (torch.linspace(-spread, spread, n, dtype=F64) for n in (121, 17))
    density = law.log_prob(torch.cartesian_prod(fine, fine)).exp().reshape(121, 121)
    axes.contourf(fine, fine, density.T, levels=20, cmap="Blues")
    points = torch.cartesian_prod(coarse, coarse)
    axes.quiver(*points.T, *exact.score(t, points).T, color="tab:red", width=0.004)
    axes.set(title=f"score at t = {t:.3g}, log SNR {log_snr:g}", aspect="equal")


def draw_paths(axes: Axes, exact: diffusion.exact.ExactDenoiser, log_snr: Tensor, way: Tensor, eta: float) -> None:
    """First components, over the density that they should have, in units of sqrt(alpha^2 + sigma^2)."""
    process, times = exact.process, exact.process.time_of_log_snr(log_snr)
    scale = torch.sqrt(process.alpha(times) ** 2 + process.variance(times))
    heights = torch.linspace(-3.2, 3.2, 161, dtype=F64)
    laws = [exact.mixture.at(process, float(t)) for t in times]
    density = torch.stack([s * marginal(law, s * heights)[0] for law, s in zip(laws, scale, strict=True)], 1)
    axes.pcolormesh(log_snr, heights, density, cmap="Blues", shading="auto", vmax=0.7)
    axes.plot(log_snr, way[..., 0] / scale[:, None], color="black", linewidth=0.6)
    name = "probability flow" if eta == 0 else "reverse SDE" if eta == 1 else "in between" if eta < 1 else "more noise"
    axes.set(title=f"eta = {eta:g}: {name}", xlabel="log SNR", ylim=(-3.2, 3.2))


def draw_ends(axes: Axes, law: GaussianMixture, x: Tensor) -> None:
    axes.hist(x[:, 0].numpy(), bins=80, density=True, color="tab:orange", label="samples")
    points = torch.linspace(-3.5, 3.5, 400, dtype=F64)
    axes.plot(points, marginal(law, points)[0], color="black", linewidth=1, label="exact")
    axes.set(xlabel="$x_1$", xlim=(-3.5, 3.5), title=f"{len(x)} samples")
    axes.legend(fontsize=8)


def draw_errors(axes: Axes, log_snr: Tensor, found: dict[str, Tensor]) -> None:
    for name, values in found.items():
        axes.semilogy(log_snr, values, label=name)
    axes.set(xlabel="log SNR", title="E |sigma (score - exact score)|$^2$")
    axes.legend(fontsize=8)


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    """Solve, learn, compare and draw; the figures are returned and written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--process", choices=list(PROCESSES), default="vp", help="from data to noise (vp)")
    parser.add_argument("--samples", type=int, default=4000, help="for each eta (4000)")
    parser.add_argument("--steps", type=int, default=2000, help="of training (2000)")
    parser.add_argument("--seed", type=int, default=0, help="of all randomness (0)")
    parser.add_argument("--output", type=Path, default=Path("out/mixture"), help="folder (out/mixture)")
    options = parser.parse_args(arguments)

    process, data = PROCESSES[options.process], mixture()
    exact = data.denoiser(process)
    columns = range(len(ETAS))
    rows: list[list[Any]] = [[f"{row}{k}" for k in columns] for row in ("score", "paths", "ends")]
    figure, panels = plt.subplot_mosaic(
        [*rows, ["errors", "errors", "made", "made"]], figsize=(16, 15), layout="constrained",
        height_ratios=(1.3, 1, 0.8, 1),
    )  # fmt: skip
    for k, shown in enumerate(SHOWN):
        draw_score(panels[f"score{k}"], exact, shown)

    log_snr = torch.linspace(FEWEST, MOST, 131, dtype=F64)
    start = float(process.time_of_log_snr(log_snr[0]))
    ways = paths(exact, data.at(process, start).sample(PATHS, seed=options.seed), log_snr, options.seed)
    drawn = samples(exact, options.samples, options.seed)
    report: dict[str, float] = {}
    for k, eta in enumerate(ETAS):
        draw_paths(panels[f"paths{k}"], exact, log_snr, ways[eta], eta)
        draw_ends(panels[f"ends{k}"], data, drawn[eta])
        law = data.at(process, T_MIN)
        report[f"eta = {eta:g}: Kolmogorov distance of x_1, times sqrt(n)"] = distance(law, drawn[eta][:, 0])
        report[f"eta = {eta:g}: mean log-density of the samples"] = float(law.log_prob(drawn[eta]).mean())
    fresh = data.at(process, T_MIN).log_prob(data.sample(100_000, seed=1))
    report |= {
        "mean log-density of draws": float(fresh.mean()),
        "its standard error for as many samples": float(fresh.std()) / options.samples**0.5,
    }

    known = data.sample(20_000, seed=2)
    learned = learn(process, known, options.steps, options.seed)
    gaussian = Gaussian.fit(known).denoiser(process)
    found = errors(exact, (learned, gaussian), log_snr[::5], 2000, options.seed)
    names = ("network", "best Gaussian")
    # KL(p_0 || model) <= 1/2 int g^2 E |score - exact score|^2 dt + KL(p_T || prior), and g^2 dt = -sigma^2 d log_snr
    for name, bound in zip(names, 0.5 * torch.trapezoid(found, log_snr[::5], dim=1), strict=True):
        report[f"{name}: bound of the Kullback-Leibler divergence, nats"] = float(bound)
    draw_errors(panels["errors"], log_snr[::5], dict(zip(names, found, strict=True)))
    made = diffusion.sample(
        learned, (options.samples, 2), sampler="probability_flow", t_min=T_MIN, t_max=process.rates_end, seed=1
    )
    draw_ends(panels["made"], data, made)
    panels["made"].set_title("the network's samples, by its probability flow")
    report["network: Kolmogorov distance of x_1, times sqrt(n)"] = distance(
        data.at(process, T_MIN), made[:, 0].double()
    )

    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "report.json").write_text(json.dumps(report, indent=2))
    figure.savefig(options.output / "mixture.png", dpi=100)
    plt.close(figure)
    for name, value in report.items():
        print(f"{name}: {value:.4g}")
    print(f"picture and report in {options.output}")
    return report


if __name__ == "__main__":
    main()
