"""The Boltzmann law of a particle in the Müller-Brown potential, sampled by Langevin dynamics.

    python examples/langevin.py --output out/langevin

    dx = v dt,      dv = (-grad U(x) - gamma v) dt + sqrt(2 gamma T) dW

has the stationary law exp(-(U + |v|^2 / 2) / T). All trajectories start in one valley and cross the passes to the
others; where they stand in the end is compared with the law itself, by quadrature on a grid. (The potential: Müller &
Brown 1979, Theor. Chim. Acta 53:75.)
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import torch
from torch import Tensor

import sdesolve as ss

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HEIGHT = (-200.0, -100.0, -170.0, 15.0)
A, B, C = (-1.0, -1.0, -6.5, 0.7), (0.0, 0.0, 11.0, 0.6), (-10.0, -10.0, -6.5, 0.7)
CENTRE = ((1.0, 0.0), (0.0, 0.5), (-0.5, 1.5), (-1.0, 1.0))
POINTS = 501  # of the grid, along each axis
VALLEY = (0.62, 0.03)  # where trajectories start; the deepest lies at (-0.56, 1.44)


def potential(x: Tensor) -> Tensor:
    """U(x), (batch,), for x of shape (batch, 2)."""
    energy = torch.zeros_like(x[:, 0])
    for height, a, b, c, (left, low) in zip(HEIGHT, A, B, C, CENTRE, strict=True):
        p, q = x[:, 0] - left, x[:, 1] - low
        energy = energy + height * torch.exp(a * p * p + b * p * q + c * q * q)
    return energy


def law(temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """A grid, (n, 2), its energies and its probabilities."""
    axes = [torch.linspace(low, low + 5.0, POINTS, dtype=torch.float64) for low in (-3.2, -1.6)]
    grid = torch.cartesian_prod(*axes)
    energy = potential(grid)
    return grid, energy, torch.softmax(-energy / temperature, 0)


def draw(path: Path, x: Tensor, walk: Tensor, temperature: float) -> None:
    """The end points and one trajectory on the potential, and the law of the first coordinate."""
    grid, energy, probability = law(temperature)
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    shape = POINTS, POINTS
    levels = torch.linspace(-150, 100, 21).tolist()
    left.contourf(*(z.reshape(shape) for z in (*grid.T, energy)), levels=levels, cmap="Blues_r", extend="max")
    left.plot(*walk.T, color="black", linewidth=0.4, alpha=0.6)
    left.scatter(*x.T, s=2, color="orange")
    left.set(xlabel="$x_1$", ylabel="$x_2$", xlim=(-1.6, 1.4), ylim=(-0.5, 2.2))
    right.hist(x[:, 0].numpy(), bins=60, density=True, color="orange", label="end points")
    marginal = probability.reshape(shape).sum(1)
    right.plot(grid.reshape(*shape, 2)[:, 0, 0], marginal * (POINTS - 1) / 5.0, color="black", label="exact")
    right.set(xlabel="$x_1$", ylabel="density", xlim=(-1.6, 1.4))
    right.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    """Sample, compare and draw; the figures are returned and written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trajectories", type=int, default=4000, help="of the ensemble (4000)")
    parser.add_argument("--time", type=float, default=20.0, help="of the simulation (20)")
    parser.add_argument("--dt", type=float, default=0.01, help="step (0.01)")
    parser.add_argument("--temperature", type=float, default=30.0, help="T, in units of the potential (30)")
    parser.add_argument("--friction", type=float, default=5.0, help="gamma (5)")
    parser.add_argument("--method", default="baoab", help="baoab, obabo, quicsort, or one for SDEs (baoab)")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (0)")
    parser.add_argument("--output", type=Path, default=Path("out/langevin"), help="folder (out/langevin)")
    options = parser.parse_args(arguments)

    langevin = ss.Langevin(potential, gamma=options.friction, temperature=options.temperature)
    x = torch.tensor(VALLEY).expand(options.trajectories, 2)
    ts = torch.linspace(0, options.time, 401)
    xs, vs = ss.solve(
        langevin, (x, torch.zeros_like(x)), ts, method=options.method, dt=options.dt, seed=options.seed
    ).ys

    grid, energy, probability = law(options.temperature)
    energies, across = potential(xs[-1]), (xs[-1, :, 1] > 0.8).float()
    error = lambda z: float(z.std()) / len(z) ** 0.5
    report = {
        "mean energy": float(energies.mean()),
        "its standard error": error(energies),
        "exact mean energy": float(probability @ energy),
        "part beyond the pass": float(across.mean()),
        "its error": error(across),
        "exact part": float(probability[grid[:, 1] > 0.8].sum()),
        "temperature of the velocities": float(vs[-1].square().mean()),
    }
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "report.json").write_text(json.dumps(report, indent=2))
    draw(options.output / "langevin.png", xs[-1], xs[:, 0], options.temperature)
    for name, value in report.items():
        print(f"{name}: {value:.4g}")
    print(f"picture and report in {options.output}")
    return report


if __name__ == "__main__":
    main()
