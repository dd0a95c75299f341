"""Sampling from the density of a score by underdamped Langevin dynamics.

    dx = v dt,      m dv = (score(x) - m gamma v) dt + sqrt(2 m gamma T) dw

has the stationary law p(x)^(1/T) N(v; 0, T/m), for score = grad log p.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

import sdesolve as ss
from sdesolve.errors import message
from sdesolve.progress import Report

from ..denoiser import Denoiser
from ..prior import trajectory_normals
from .parts import Field, check_temperature, naming_the_step, output_times, score_field, shown

__all__ = ["underdamped_langevin"]


@torch.no_grad()
def underdamped_langevin(
    score: Field | Denoiser,
    x0: Tensor,
    *,
    step: float,
    steps: int,
    v0: Tensor | None = None,
    t: float | None = None,
    friction: float | Tensor = 1.0,
    mass: float | Tensor = 1.0,
    temperature: float = 1.0,
    method: str = "baoab",
    trajectory: int | None = None,
    seed: int | None = None,
    paths: Sequence[int] | Tensor | None = None,
    compile: bool = False,
    progress: bool | Report = False,
) -> tuple[Tensor, Tensor]:
    """Underdamped (kinetic) Langevin dynamics, by splitting: :class:`sdesolve.Langevin` in sqrt(m) x and sqrt(m) v.

    Parameters
    ----------
    score, x0, step, steps, t, trajectory, seed, paths, compile, progress : as in :func:`langevin`.
    v0 : velocities at the start, of x0's shape; default: drawn from their stationary law N(0, T / m).
    friction : gamma > 0, per unit of time, a number or a tensor that broadcasts against x.
    mass : m > 0, likewise. It does not change the law of x; masses near the stiffness of each component let all move
        alike.
    temperature : T >= 0.
    method : ``"baoab"`` (default; x exact for a normal law, whatever the step), ``"obabo"``, ``"quicsort"``, or another
        of the solver for additive noise.

    Returns
    -------
    (x, v) : positions and velocities, each ``(batch, *state)``, or ``(k + 1, batch, *state)`` with `trajectory`.

    References
    ----------
    Leimkuhler & Matthews (2013). Rational construction of stochastic numerical methods for molecular sampling. Appl.
    Math. Res. Express 2013:34.

    Examples
    --------
    >>> x, v = underdamped_langevin(lambda x: -x, torch.zeros(4000, 1), step=1.0, steps=30, seed=0)
    >>> abs(float(x.var()) - 1) < 0.1
    True
    """
    ts = output_times(step, steps, trajectory)
    check_temperature(temperature)
    heavy = torch.as_tensor(mass, dtype=x0.dtype, device=x0.device)
    if not bool((torch.isfinite(heavy) & (heavy > 0)).all()):
        raise ValueError(message("mass", repr(mass), "a positive number, or a tensor of such"))
    root, field = heavy.sqrt(), score_field(score, t)
    seed = int(torch.randint(2**63 - 1, ())) if seed is None else seed
    if v0 is None:
        normals = trajectory_normals(seed, "velocities", x0.shape, paths=paths, dtype=x0.dtype, device=x0.device)
        v0 = math.sqrt(temperature) * normals / root
    problem = ss.Langevin(force=_Scaled(field, root), gamma=friction, temperature=temperature)
    with naming_the_step():
        x, v = ss.solve(
            problem,
            (root * x0, root * v0),
            ts.to(x0.device),
            method=method,
            dt=step,
            seed=seed,
            paths=paths,
            compile=compile,
            progress=progress,
        ).ys
    return shown(x / root, trajectory), shown(v / root, trajectory)


class _Scaled(nn.Module):
    """The force on y = root x, for unit mass."""

    root: Tensor

    def __init__(self, score: nn.Module, root: Tensor) -> None:
        super().__init__()
        self.score = score
        self.register_buffer("root", root, persistent=False)

    def forward(self, y: Tensor) -> Tensor:
        found: Tensor = self.score(torch.zeros_like(y[:1]), y / self.root)
        return found / self.root
