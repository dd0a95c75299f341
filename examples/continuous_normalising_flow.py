"""A continuous normalising flow: two moons made from a normal law by a learned field, trained by maximum likelihood.

    python examples/continuous_normalising_flow.py --output out/continuous_normalising_flow

The field f(t, x) carries points from the data at t = 0 to a standard normal law at t = 1. Along a trajectory the
density changes by the trace of its Jacobian (Chen, Rubanova, Bettencourt & Duvenaud 2018, arXiv:1806.07366, theorem 1),
so that

    log q(x) = log N(x(1)) + int_0^1 tr df/dx(t, x(t)) dt,      dx/dt = f(t, x),      x(0) = x,

is the end of one solve of (x, log-density), and its gradient that of the solve. In two dimensions the trace is
exact: two products with the Jacobian. No model is better than the entropy of the data, which is known here.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import torch
from rich.progress import track
from torch import Tensor, nn

import sdesolve as ss
from diffusion.prior import NormalPrior
from diffusion.toys import TOYS, Toy

matplotlib.use("Agg")
import matplotlib.pyplot as plt

NORMAL = NormalPrior()


class Field(nn.Module):
    """f(t, x)."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(3, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 2)
        )

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        out: Tensor = self.net(torch.cat([x, t.reshape(-1, 1).expand(x.shape[0], 1)], 1))
        return out


class Flow(nn.Module):
    """The field and the density that it carries."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.field = Field(width)

    def with_trace(self, t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """(x, l) -> (f(t, x), tr df/dx), for l of shape (batch, 1)."""
        x = state[0]
        velocity, pull = torch.func.vjp(lambda x: self.field(t, x), x)[:2]
        units = torch.eye(2, dtype=x.dtype)[:, None].expand(2, *x.shape)
        (rows,) = torch.vmap(pull)(units)
        return velocity, (rows * units).sum((0, 2))[:, None]

    def log_prob(self, x: Tensor, **how: Any) -> Tensor:
        """log q(x), (batch,)."""
        ends, gained = ss.solve(
            ss.ODE(self.with_trace), (x, x.new_zeros(len(x), 1)), torch.tensor([0.0, 1.0]), **how
        ).ys
        return NORMAL.log_prob(ends[-1]) + gained[-1, :, 0]

    def sample(self, count: int, times: Tensor, seed: int, **how: Any) -> Tensor:
        """Trajectories (T, count, 2) from the normal law, at times that fall from 1."""
        start = NORMAL.sample((count, 2), seed=seed)
        found: Tensor = ss.solve(ss.ODE(self.field), start, times, **how).ys
        return found


def train(flow: Flow, toy: Toy, steps: int, batch: int, seed: int, how: dict[str, Any]) -> list[float]:
    """By maximum likelihood on draws that are new in each step; returns the loss of each. Ctrl-C ends it with what is
    learned so far."""
    optimizer = torch.optim.Adam(flow.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    losses: list[float] = []
    try:
        for step in track(range(steps), "continuous normalising flow"):
            ids = torch.arange(step * batch, (step + 1) * batch)
            loss = -flow.log_prob(toy.sample(batch, seed=seed, paths=ids), **how).mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(flow.parameters(), 5.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
    except KeyboardInterrupt:
        print(f"stopped after {len(losses)} of {steps} steps")
    return losses


def measure(flow: Flow, toy: Toy, count: int, seed: int) -> dict[str, float]:
    """On fresh draws: the negative log-likelihood, and how much of it is not the data's own."""
    x = toy.sample(count, seed=seed)
    with torch.no_grad():
        found = flow.log_prob(x, rtol=1e-5, atol=1e-5).double()
    gap = toy.log_prob(x.double()) - found
    return {
        "entropy": toy.entropy,
        "negative log-likelihood, held out": -found.mean().item(),
        "its standard error": found.std().item() / math.sqrt(count),
        "KL divergence from the flow": gap.mean().item(),
        "the KL's standard error": gap.std().item() / math.sqrt(count),
    }


@torch.no_grad()
def draw(file: Path, flow: Flow, toy: Toy, losses: list[float], seed: int) -> None:
    """The exact and the learned density, samples, and some of the trajectories that they end."""
    figure, axes = plt.subplots(2, 2, figsize=(10, 10), layout="constrained")
    side, reach = 100, 0.9 * toy.reach
    ticks = torch.linspace(-reach, reach, side)
    points = torch.cartesian_prod(ticks, ticks)
    for axis, title, log_prob in (
        (axes[0, 0], "data: exact density", toy.log_prob(points)),
        (axes[0, 1], "flow: learned density", flow.log_prob(points, rtol=1e-4, atol=1e-4)),
    ):
        axis.imshow(log_prob.exp().reshape(side, side).T.numpy(), origin="lower", extent=(-reach, reach, -reach, reach))
        axis.set(title=title)
    paths = flow.sample(1000, torch.linspace(1, 0, 51), seed, rtol=1e-5, atol=1e-5)
    axes[1, 0].plot(*paths[:, :60].numpy().transpose(2, 0, 1), color="0.6", linewidth=0.6)
    axes[1, 0].plot(*paths[0].T.numpy(), ".", color="tab:blue", markersize=2, label="normal, t = 1")
    axes[1, 0].plot(*paths[-1].T.numpy(), ".", color="tab:red", markersize=2, label="samples, t = 0")
    axes[1, 0].set(title="samples, and 60 of their trajectories", xlim=(-reach, reach), ylim=(-reach, reach))
    axes[1, 0].legend(loc="upper right")
    axes[1, 1].plot(losses, linewidth=0.8, label="negative log-likelihood of a batch")
    axes[1, 1].axhline(toy.entropy, color="black", linewidth=1, label="entropy of the data")
    axes[1, 1].set(xlabel="step", title="training (nats)", ylim=(toy.entropy - 0.3, toy.entropy + 1.5))
    axes[1, 1].legend()
    figure.savefig(file, dpi=120)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    """Learn, measure and draw; the figures are returned and written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=list(TOYS), default="moons", help="what is learned (moons)")
    parser.add_argument("--steps", type=int, default=1000, help="of training (1000)")
    parser.add_argument("--batch", type=int, default=256, help="draws a step (256)")
    parser.add_argument("--held-out", type=int, default=4000, help="draws to measure on (4000)")
    parser.add_argument("--dt", type=float, help="fixed steps of this length in training; default: adaptive ones")
    parser.add_argument("--adjoint", default="direct", help="direct, checkpoint, backsolve or reversible (direct)")
    parser.add_argument("--seed", type=int, default=0, help="of data, network and samples (0)")
    parser.add_argument("--output", type=Path, default=Path("out/continuous_normalising_flow"), help="folder (out/...)")
    options = parser.parse_args(arguments)

    torch.manual_seed(options.seed)
    flow, toy = Flow(), TOYS[options.data]
    how: dict[str, Any] = {"adjoint": options.adjoint, "rtol": 1e-3, "atol": 1e-3}
    if options.dt is not None:
        how = {"adjoint": options.adjoint, "method": "rk4", "dt": options.dt}
    losses = train(flow, toy, options.steps, options.batch, options.seed, how)
    report = {
        "steps": len(losses),
        "first loss": losses[0],
        "last loss": losses[-1],
        **measure(flow, toy, options.held_out, options.seed + 1),
    }
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "report.json").write_text(json.dumps(report, indent=2))
    draw(options.output / "continuous_normalising_flow.png", flow, toy, losses, options.seed + 2)
    for name, value in report.items():
        print(f"{name}: {value:.4g}")
    print(f"picture and report in {options.output}")
    return report


if __name__ == "__main__":
    main()
