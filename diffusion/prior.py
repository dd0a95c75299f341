"""The noise that generation starts from, and other draws that belong to a trajectory.

A draw is a pure function of (seed, purpose, trajectory id): sample i starts from the same noise in every
batch.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Protocol

import torch
from torch import Tensor

from sdesolve.brownian import BrownianPath
from sdesolve.errors import message

__all__ = ["LogDensity", "NormalPrior", "Prior", "check_seed", "derived_seed", "log_density", "trajectory_normals"]

LogDensity = Callable[[Tensor], Tensor]
"""``(batch, *state)`` -> log-densities in nats, ``(batch,)``."""


def log_density(name: str, density: Any) -> LogDensity:
    """That of an object with ``log_prob``, or of such a function itself; `name` is the argument it came as."""
    found = getattr(density, "log_prob", density)
    if not callable(found):
        raise TypeError(message(name, type(density).__name__, "an object with log_prob(x), or a function of x"))
    return found


def check_seed(seed: Any) -> None:
    """As :class:`sdesolve.BrownianPath` takes it."""
    if not isinstance(seed, Integral) or isinstance(seed, bool) or not 0 <= int(seed) < 2**64:
        raise ValueError(message("seed", repr(seed), "an int from 0 to 2^64 - 1, or None"))


def derived_seed(seed: int, purpose: str) -> int:
    """A seed for one purpose: the first 8 bytes (little endian) of the BLAKE2b hash of
    ``"diffusion:purpose:seed"``.

    A solve uses the user's seed itself. Everything drawn beside it takes a derived one, so that the noise
    which generation starts from has nothing to do with the noise that follows.
    """
    check_seed(seed)
    digest = hashlib.blake2b(f"diffusion:{purpose}:{seed}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def trajectory_normals(
    seed: int,
    purpose: str,
    shape: Sequence[int],
    *,
    paths: Sequence[int] | Tensor | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Standard normals ``(batch, *state)``; row i depends on seed, purpose and paths[i] (default i) alone."""
    path = BrownianPath(derived_seed(seed, purpose), tuple(shape), cell=1.0, paths=paths, dtype=dtype, device=device)
    return path.normals([0])[0]


class Prior(Protocol):
    """A distribution to start from; :class:`diffusion.NormalPrior` is one."""

    def sample(
        self,
        shape: Sequence[int],
        *,
        seed: int,
        paths: Sequence[int] | Tensor | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor: ...


@dataclass(frozen=True)
class NormalPrior:
    """N(mean, scale^2 I) for states of any shape.

    Parameters
    ----------
    scale : standard deviation of every component, positive; default 1.
    mean : of every component; default 0.
    """

    scale: float = 1.0
    mean: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise ValueError(message("scale", repr(self.scale), "a positive, finite number"))
        if not math.isfinite(self.mean):
            raise ValueError(message("mean", repr(self.mean), "a finite number"))

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density in nats, ``(batch,)`` for x of shape ``(batch, *state)``."""
        z = (x.flatten(1) - self.mean) / self.scale
        return -0.5 * (z**2).sum(1) - z.shape[1] * (math.log(self.scale) + 0.5 * math.log(2 * math.pi))

    def sample(
        self,
        shape: Sequence[int],
        *,
        seed: int,
        paths: Sequence[int] | Tensor | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Draws ``(batch, *state)``; draw i is the same for every batch that holds trajectory id paths[i]."""
        normals = trajectory_normals(seed, "prior", shape, paths=paths, dtype=dtype, device=device)
        return self.scale * normals + self.mean
