"""A neural ODE dy/dt = net(y) learned from noisy observations of an oscillator, each trajectory at times of its own.

    python examples/neural_ode.py --output out/neural_ode

The data are of van der Pol's oscillator x'' = mu (1 - x^2) x' - x. The picture shows what was observed, and where the
learned and the true field lead from starts that were not.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import torch
from rich.progress import track
from torch import Tensor, nn

import sdesolve as ss

matplotlib.use("Agg")
import matplotlib.pyplot as plt

STIFFNESS, NOISE = 1.5, 0.05


def oscillator(t: Tensor, y: Tensor) -> Tensor:
    """Van der Pol's, as (x, x')."""
    x, v = y.unbind(-1)
    return torch.stack([v, STIFFNESS * (1 - x * x) * v - x], -1)


def observations(count: int, each: int, seed: int) -> tuple[Tensor, Tensor]:
    """Times (count, each) that start at 0, and noisy states (count, each, 2) then."""
    generator = torch.Generator().manual_seed(seed)
    starts = 6 * torch.rand(count, 2, generator=generator) - 3
    gaps = 0.05 + 0.3 * torch.rand(count, each - 1, generator=generator)
    times = torch.cat([torch.zeros(count, 1), gaps.cumsum(1)], 1)
    states = ss.solve(ss.ODE(oscillator), starts, times, rtol=1e-6, atol=1e-6).ys.transpose(0, 1)
    return times, states + NOISE * torch.randn(states.shape, generator=generator)


class Field(nn.Module):
    """The right-hand side that is learned."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(2, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 2)
        )

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        out: Tensor = self.net(y)
        return out


def train(field: Field, times: Tensor, states: Tensor, steps: int, adjoint: str) -> list[float]:
    """Least squares; returns the loss of each step. Ctrl-C ends it with what is learned so far."""
    optimizer = torch.optim.Adam(field.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    ode, losses = ss.ODE(field), []
    try:
        for _ in track(range(steps), "neural ODE"):
            found = ss.solve(ode, states[:, 0], times, rtol=1e-4, atol=1e-4, adjoint=adjoint).ys.transpose(0, 1)
            loss = (found - states)[:, 1:].square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
    except KeyboardInterrupt:
        print(f"stopped after {len(losses)} of {steps} steps")
    return losses


def held_out(field: Field) -> tuple[Tensor, Tensor, Tensor]:
    """Times, and where the learned and the true field lead from four new starts: (T, 4, 2)."""
    starts, times = torch.tensor([[1.0, 0.0], [2.5, 2.0], [-2.0, -1.0], [0.5, -2.5]]), torch.linspace(0, 8, 161)
    with torch.no_grad():
        learned, true = (ss.solve(ss.ODE(f), starts, times, rtol=1e-5, atol=1e-5).ys for f in (field, oscillator))
    return times, learned, true


def draw(file: Path, states: Tensor, learned: Tensor, true: Tensor, losses: list[float]) -> None:
    """Phase plane and loss."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 5), layout="constrained")
    left.plot(*states.reshape(-1, 2).T, ".", color="0.75", markersize=3, label="observed")
    for k in range(true.shape[1]):
        left.plot(*true[:, k].T, color="black", linewidth=1, label="true, from new starts" if k == 0 else None)
        left.plot(*learned[:, k].T, "--", color="tab:red", label="learned" if k == 0 else None)
    left.set(xlabel="x", ylabel="x'", title="phase plane")
    left.legend()
    right.semilogy(losses)
    right.axhline(2 * NOISE**2, color="0.5", linewidth=1, label="noise of both observations")
    right.set(xlabel="step", ylabel="mean squared error", title="training")
    right.legend()
    figure.savefig(file, dpi=120)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    """Learn, measure and draw; the figures are returned and written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000, help="of training (1000)")
    parser.add_argument("--trajectories", type=int, default=64, help="that are observed (64)")
    parser.add_argument("--adjoint", default="direct", help="direct, checkpoint, backsolve or reversible (direct)")
    parser.add_argument("--seed", type=int, default=0, help="of data and network (0)")
    parser.add_argument("--output", type=Path, default=Path("out/neural_ode"), help="folder (out/neural_ode)")
    options = parser.parse_args(arguments)

    torch.manual_seed(options.seed)
    field = Field()
    times, states = observations(options.trajectories, 12, options.seed)
    losses = train(field, times, states, options.steps, options.adjoint)
    _, learned, true = held_out(field)
    report = {
        "steps": len(losses),
        "first loss": losses[0],
        "last loss": losses[-1],
        "held-out error over 8 time units": (learned - true).square().mean().sqrt().item(),
        "size of the true solutions": true.square().mean().sqrt().item(),
    }
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "report.json").write_text(json.dumps(report, indent=2))
    draw(options.output / "neural_ode.png", states, learned, true, losses)
    for name, value in report.items():
        print(f"{name}: {value:.4g}")
    print(f"picture and report in {options.output}")
    return report


if __name__ == "__main__":
    main()
