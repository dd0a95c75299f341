"""Images of few grey levels as continuous data, and what a density on the latter says of the former.

A level k in 0 .. levels - 1 becomes x = low + (high - low) (k + u) / levels with u uniform on [0, 1). A
density p of x then bounds the probability of the levels: log P(k) >= E_u[log p(x)] + D log((high - low) /
levels), by Jensen.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sdesolve.errors import message

from .prior import derived_seed

__all__ = ["bits_per_dimension", "dequantise", "quantise"]


def dequantise(
    k: Tensor,
    levels: int,
    range: tuple[float, float] = (-1.0, 1.0),
    *,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """x = low + (high - low) (k + u) / levels, of k's shape, with fresh uniform noise u in [0, 1).

    Parameters
    ----------
    k : levels 0 .. levels - 1, of an integer dtype or whole numbers.
    levels : number of levels (17 for 0 .. 16). range : (low, high) of x; default (-1, 1).
    seed, generator : where the noise comes from; one of them. Default: torch's global generator.
    dtype : of x; default torch's default dtype.
    """
    low, high = _checked(levels, range)
    if k.numel() and bool(((k < 0) | (k > levels - 1) | (k != k.round())).any()):
        got = f"values from {float(k.min()):g} to {float(k.max()):g}"
        raise ValueError(message("k", got, f"whole numbers 0 .. {levels - 1} for levels={levels}"))
    if seed is not None and generator is not None:
        raise ValueError(message("seed", "seed and generator", "one of them"))
    if seed is not None:
        generator = torch.Generator(k.device).manual_seed(derived_seed(seed, "dequantise"))
    dtype = torch.get_default_dtype() if dtype is None else dtype
    u = torch.rand(k.shape, dtype=dtype, device=k.device, generator=generator)
    return low + (high - low) / levels * (k.to(dtype) + u)


def quantise(x: Tensor, levels: int, range: tuple[float, float] = (-1.0, 1.0)) -> Tensor:
    """The level whose interval holds x, as int64; values outside the range go to the nearest level."""
    low, high = _checked(levels, range)
    if x.isnan().any():
        raise ValueError(message("x", "NaN", "numbers"))
    return torch.floor((x - low) * (levels / (high - low))).clamp(0, levels - 1).long()


def bits_per_dimension(log_prob: Tensor, dims: int, *, levels: int, range: tuple[float, float] = (-1.0, 1.0)) -> Tensor:
    """Bits that a component of the quantised data costs, at most, for a density of the dequantised data.

    ::

        -log_prob / (dims log 2) + log2(levels) - log2(high - low)

    Its mean over data and dequantisation noise is an upper bound on the code length of the levels (Theis et
    al. 2016, eq. 5).

    Parameters
    ----------
    log_prob : log-densities in nats of dequantised data, any shape.
    dims : components of a state. levels, range : as in :func:`dequantise`.

    References
    ----------
    Theis, van den Oord, Bethge (2016). A note on the evaluation of generative models. ICLR.
    """
    low, high = _checked(levels, range)
    if dims < 1:
        raise ValueError(message("dims", repr(dims), "at least 1"))
    return -log_prob / (dims * math.log(2)) + math.log2(levels) - math.log2(high - low)


def _checked(levels: int, range: tuple[float, float]) -> tuple[float, float]:
    if levels < 1:
        raise ValueError(message("levels", repr(levels), "at least 1"))
    low, high = range
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(message("range", repr(range), "(low, high) with low < high, both finite"))
    return low, high
