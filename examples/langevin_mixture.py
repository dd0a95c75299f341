"""Two far modes of unequal weight, sampled by Langevin dynamics and by annealed Langevin dynamics.

    python examples/langevin_mixture.py --output out/langevin_mixture

    p = 1/5 N((-5, -5), I) + 4/5 N((5, 5), I)

Langevin dynamics in p has p as its stationary law, but hardly ever crosses from one mode to the other: each point ends
in the mode near which it began, about one half in either. Annealed Langevin dynamics begins where noise has made one
mode of the two, and takes the noise away level by level; the weights come out right. (The mixture: Song & Ermon 2019,
NeurIPS, section 3.2.2.)
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import torch
from torch import Tensor

import diffusion
from diffusion.exact import GaussianMixture

matplotlib.use("Agg")
import matplotlib.pyplot as plt

MEANS = torch.tensor([[-5.0, -5.0], [5.0, 5.0]])
WEIGHTS = torch.tensor([0.2, 0.8])
PROCESS = diffusion.VE(sigma_max=20.0)
SIDE = 9.0


def mixture() -> GaussianMixture:
    return GaussianMixture(MEANS, torch.eye(2).expand(2, 2, 2), WEIGHTS)


def draw(path: Path, law: GaussianMixture, clouds: dict[str, Tensor]) -> None:
    """Each cloud, and the lines of the density at e^-1, ..., e^-5 of its greatest value."""
    axis = torch.linspace(-SIDE, SIDE, 181)
    log_prob = law.log_prob(torch.cartesian_prod(axis, axis)).reshape(181, 181).T
    levels = (log_prob.max() - torch.arange(5, 0, -1)).tolist()
    figure, axes = plt.subplots(1, len(clouds), figsize=(5 * len(clouds), 5.4), layout="constrained", squeeze=False)
    for frame, (name, x) in zip(axes[0], clouds.items(), strict=True):
        frame.scatter(*x.T, s=1, color="orange")
        frame.contour(axis, axis, log_prob, levels=levels, colors="black", linewidths=0.8)
        low = lower(x)
        frame.set(title=f"{name}: {low:.0%} and {1 - low:.0%}", xlim=(-SIDE, SIDE), ylim=(-SIDE, SIDE), aspect="equal")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def lower(x: Tensor) -> float:
    """The part of the points in the lower mode."""
    return float((x.sum(1) < 0).float().mean())


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    """Sample, compare and draw; the figures are returned and written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trajectories", type=int, default=4000, help="of each ensemble (4000)")
    parser.add_argument("--levels", type=int, default=10, help="of noise (10)")
    parser.add_argument("--steps-per-level", type=int, default=100, help="of annealed Langevin dynamics (100)")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (0)")
    parser.add_argument("--output", type=Path, default=Path("out/langevin_mixture"), help="folder")
    options = parser.parse_args(arguments)

    data, shape, seed = mixture(), (options.trajectories, 2), options.seed
    denoiser, last = data.denoiser(PROCESS), 0.4
    start = diffusion.NormalPrior(scale=5.0).sample(shape, seed=seed)
    steps = options.levels * options.steps_per_level
    plain = diffusion.langevin(denoiser, start, t=0.0, step=0.1, steps=steps, seed=seed)
    annealed = diffusion.annealed_langevin(
        denoiser, shape, levels=options.levels, steps_per_level=options.steps_per_level, t_min=last, seed=seed
    )
    report = {
        "lower mode, exact": float(WEIGHTS[0]),
        "at the start": lower(start),
        "Langevin": lower(plain),
        "annealed Langevin": lower(annealed),
        "standard error": float((WEIGHTS[0] * WEIGHTS[1] / options.trajectories).sqrt()),
        "noise left in annealed samples": float(PROCESS.sigma(torch.tensor(last))),
    }
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "report.json").write_text(json.dumps(report, indent=2))
    draw(options.output / "langevin_mixture.png", data, {"Langevin": plain, "annealed Langevin": annealed})
    for name, value in report.items():
        print(f"{name}: {value:.4g}")
    print(f"picture and report in {options.output}")
    return report


if __name__ == "__main__":
    main()
