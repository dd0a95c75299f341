"""A latent SDE fitted to the yearly numbers of sunspots, 1700 to 2008.

    python examples/latent_sde.py --output out/latent_sde

Behind the numbers y stands a state z, of which a prior SDE dz = h(z) dt + g dW says how it moves. Given y, a posterior
dz = f(z, c(t)) dt + g dW moves like what was seen, c(t) being what a recurrent network says of the numbers from t on.
Both are learned by the evidence lower bound

    log p(y) >= E[ log p(y | z) ] - KL(z_0) - E int 1/2 |u|^2 dt,      u = (f - h) / g,

whose integral is solved for along the path, as one more component of the state (Li, Wong, Chen & Duvenaud 2020,
arXiv:2001.01328, section 5). The last years are held out: there the prior goes on from where the posterior ends.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import statsmodels.api as sm
import torch
from rich.progress import track
from torch import Tensor, nn

import sdesolve as ss

matplotlib.use("Agg")
import matplotlib.pyplot as plt

YEAR = 0.1  # the unit of time is ten years
HELD_OUT, WINDOW = 30, 60  # years


def sunspots() -> tuple[np.ndarray, Tensor]:
    """Years, and the square roots of the numbers, centred and scaled by those that are not held out."""
    table = sm.datasets.sunspots.load_pandas().data
    years, roots = table["YEAR"].to_numpy(), torch.tensor(table["SUNACTIVITY"].to_numpy(), dtype=torch.float32).sqrt()
    known = roots[:-HELD_OUT]
    return years, (roots - known.mean()) / known.std()


def mlp(inputs: int, width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, outputs)
    )


class LatentSDE(nn.Module):
    """The prior, the posterior, and how both are seen."""

    def __init__(self, latent: int = 4, width: int = 64, context: int = 16) -> None:
        super().__init__()
        self.encoder, self.context = nn.GRU(1, width, batch_first=True), nn.Linear(width, context)
        self.start = nn.Linear(width, 2 * latent)
        self.posterior, self.prior = mlp(latent + context, width, latent), mlp(latent, width, latent)
        self.log_g = nn.Parameter(torch.full((latent,), -0.5))
        self.prior_start = nn.Parameter(torch.zeros(2 * latent))
        self.decoder, self.log_noise = nn.Linear(latent, 1), nn.Parameter(torch.tensor(-1.0))

    def encode(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """What the numbers from each time on say, (batch, T, context), and mean and log deviation of z_0."""
        hidden = self.encoder(y.flip(1)[..., None])[0].flip(1)
        return self.context(hidden), self.start(hidden[:, 0])

    def posterior_sde(self, contexts: Tensor, times: Tensor) -> ss.SDE:
        """Of (z, the integral of 1/2 |u|^2); only z has noise."""

        def drift(t: Tensor, state: dict[str, Tensor]) -> dict[str, Tensor]:
            z = state["z"]
            ahead = torch.searchsorted(times, t, right=True).clamp(max=len(times) - 1)
            f = self.posterior(torch.cat([z, contexts[:, ahead]], -1))
            u = (f - self.prior(z)) * torch.exp(-self.log_g)
            return {"kl": 0.5 * u.square().sum(-1), "z": f}

        def diffusion(t: Tensor, state: dict[str, Tensor]) -> dict[str, Tensor]:
            return {"kl": torch.zeros_like(state["kl"]), "z": self.log_g.exp().expand_as(state["z"])}

        return ss.SDE(drift, diffusion, additive=True, calculus="stratonovich")

    def prior_sde(self) -> ss.SDE:
        return ss.SDE(
            lambda t, z: self.prior(z),
            lambda t, z: self.log_g.exp().expand_as(z),
            additive=True,
            calculus="stratonovich",
        )

    def sample_posterior(self, y: Tensor, times: Tensor, seed: int, **how: Any) -> tuple[Tensor, Tensor, Tensor]:
        """z at the times, (T, batch, latent); the path's KL, (batch,); the start's, (batch,)."""
        contexts, start = self.encode(y)
        mean, log_std = start.chunk(2, -1)
        prior_mean, prior_log_std = self.prior_start.chunk(2, -1)
        generator = torch.Generator().manual_seed(seed)
        z0 = mean + log_std.exp() * torch.randn(mean.shape, generator=generator)
        state = {"kl": torch.zeros(len(y)), "z": z0}
        ys = ss.solve(self.posterior_sde(contexts, times), state, times, seed=seed, **how).ys
        normal = torch.distributions.Normal
        q, p = normal(mean, log_std.exp()), normal(prior_mean.expand_as(mean), prior_log_std.exp().expand_as(mean))
        return ys["z"], ys["kl"][-1], torch.distributions.kl_divergence(q, p).sum(-1)

    def seen(self, z: Tensor) -> torch.distributions.Normal:
        """The law of a number, given z."""
        return torch.distributions.Normal(self.decoder(z)[..., 0], self.log_noise.exp())

    def bound(self, y: Tensor, times: Tensor, weight: float, seed: int, **how: Any) -> tuple[Tensor, Tensor]:
        """The negative bound a number, with ``weight`` on both KL terms, and the path's KL a number."""
        z, path, start = self.sample_posterior(y, times, seed, **how)
        likelihood = self.seen(z).log_prob(y.T).sum(0)
        return (weight * (path + start) - likelihood).mean() / y.shape[1], path.mean() / y.shape[1]


def train(model: LatentSDE, series: Tensor, steps: int, batch: int, how: dict[str, Any]) -> list[tuple[float, float]]:
    """On windows of the series; (bound, KL of the path) of each step. Ctrl-C ends it with what is learned so far."""
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    times, losses = YEAR * torch.arange(WINDOW), []
    generator = torch.Generator().manual_seed(0)
    try:
        for step in track(range(steps), "latent SDE"):
            first = torch.randint(len(series) - WINDOW + 1, (batch,), generator=generator)
            windows = torch.stack([series[k : k + WINDOW] for k in first.tolist()])
            weight = min(1.0, 2 * (step + 1) / steps)
            loss, path = model.bound(windows, times, weight, seed=step, **how)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append((loss.item(), path.item()))
    except KeyboardInterrupt:
        print(f"stopped after {len(losses)} of {steps} steps")
    return losses


@torch.no_grad()
def paths(model: LatentSDE, known: Tensor, count: int, how: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Means of the numbers along posterior paths over the last window of ``known``, (WINDOW, count), and numbers drawn
    along their continuations by the prior, (HELD_OUT, count)."""
    window = known[-WINDOW:].expand(count, -1)
    z, _, _ = model.sample_posterior(window, YEAR * torch.arange(WINDOW), seed=1, **how)
    ahead = YEAR * torch.arange(WINDOW - 1, WINDOW + HELD_OUT)
    later = ss.solve(model.prior_sde(), z[-1], ahead, seed=2, **how).ys[1:]
    law = model.seen(later)
    noise = torch.randn(law.loc.shape, generator=torch.Generator().manual_seed(3))
    return model.seen(z).loc, law.loc + law.scale * noise


def draw(file: Path, years: np.ndarray, series: Tensor, seen: Tensor, ahead: Tensor, losses: Sequence[Any]) -> None:
    """Posterior paths, their continuation, and the bound."""
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(10, 8), layout="constrained", height_ratios=(2, 1))
    end = len(series) - HELD_OUT
    top.plot(years[end - WINDOW : end], seen[:, :20], color="tab:blue", alpha=0.25, linewidth=0.8)
    top.plot([], [], color="tab:blue", label="posterior paths")
    low, middle, high = np.quantile(ahead.numpy(), (0.05, 0.5, 0.95), axis=1)
    top.fill_between(years[end:], low, high, color="tab:orange", alpha=0.3, label="prior from there on, 5 to 95 %")
    top.plot(years[end:], middle, color="tab:orange", label="its median")
    top.plot(years[end:], ahead[:, :3], color="tab:orange", alpha=0.5, linewidth=0.8)
    top.plot(years[end - WINDOW :], series[end - WINDOW :], "k.", markersize=4, label="observed")
    top.axvline(years[end] - 0.5, color="0.5", linewidth=1)
    top.set(
        xlabel="year",
        ylabel="square root of the sunspot number, standardised",
        title="yearly sunspots; behind the line they were held out",
    )
    top.legend(loc="upper left", ncols=2)
    bottom.plot([loss for loss, _ in losses], label="negative bound a number (KL weighted up to half time)")
    bottom.plot([path for _, path in losses], label="KL of the path a number")
    bottom.set(xlabel="step", title="training", ylim=(-0.5, 3))
    bottom.legend()
    figure.savefig(file, dpi=120)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    """Fit, measure and draw; the figures are returned and written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600, help="of training (600)")
    parser.add_argument("--batch", type=int, default=32, help="windows a step (32)")
    parser.add_argument("--dt", type=float, default=0.05, help="step of the SDE, in decades (0.05)")
    parser.add_argument("--method", help="of the SDE (euler_maruyama; reversible_heun for reversible)")
    parser.add_argument("--adjoint", default="direct", help="direct, checkpoint, backsolve or reversible (direct)")
    parser.add_argument("--seed", type=int, default=0, help="of the networks (0)")
    parser.add_argument("--output", type=Path, default=Path("out/latent_sde"), help="folder (out/latent_sde)")
    options = parser.parse_args(arguments)

    torch.manual_seed(options.seed)
    years, series = sunspots()
    known, later = series[:-HELD_OUT], series[-HELD_OUT:]
    method = options.method or ("reversible_heun" if options.adjoint == "reversible" else "euler_maruyama")
    model, how = LatentSDE(), {"dt": options.dt, "method": method, "adjoint": options.adjoint}
    losses = train(model, known, options.steps, options.batch, how)
    seen, ahead = paths(model, known, 200, how)
    error = (seen.mean(1) - known[-WINDOW:]).square().mean().sqrt()
    low, high = torch.quantile(ahead, 0.05, dim=1), torch.quantile(ahead, 0.95, dim=1)
    report = {
        "steps": len(losses),
        "negative bound a number, first": losses[0][0],
        "negative bound a number, last ten": float(np.mean([loss for loss, _ in losses[-10:]])),
        "of independent normals": 0.5 * math.log(2 * math.pi * math.e),
        "KL of the path a number, last": losses[-1][1],
        "error of the posterior's mean": error.item(),
        "held-out years inside the prior's 5 to 95 %": ((low < later) & (later < high)).float().mean().item(),
    }
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "report.json").write_text(json.dumps(report, indent=2))
    draw(options.output / "latent_sde.png", years, series, seen, ahead, losses)
    for name, value in report.items():
        print(f"{name}: {value:.4g}")
    print(f"picture and report in {options.output}")
    return report


if __name__ == "__main__":
    main()
