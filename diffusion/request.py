"""What sample() was asked for, checked: every mistake is named before anything is computed."""

from __future__ import annotations

import math
from numbers import Integral
from typing import Any

import torch

from sdesolve.errors import message

from .denoiser import Denoiser

__all__ = ["check_count", "check_seed", "check_shape", "check_span"]

ROUNDING = 1e-6
"""How far float32 times may be beyond the end, relatively."""


def check_shape(shape: Any) -> tuple[int, ...]:
    """The shape, if it is one of at least one sample."""
    accepted = "(batch, *state), integers, with a batch of at least 1"
    try:
        sizes = tuple(shape)
    except TypeError as error:
        raise TypeError(message("shape", repr(shape), accepted)) from error
    if not sizes or not all(_integer(size) and size >= 0 for size in sizes) or sizes[0] < 1:
        raise ValueError(message("shape", repr(shape), accepted))
    return sizes


def check_count(name: str, count: Any) -> None:
    """A number of things, at least 1."""
    if not _integer(count) or count < 1:
        raise ValueError(message(name, repr(count), "an integer, at least 1"))


def check_seed(seed: Any) -> None:
    """As :class:`sdesolve.BrownianPath` takes it."""
    if not _integer(seed) or not 0 <= seed < 2**64:
        raise ValueError(message("seed", repr(seed), "an int from 0 to 2^64 - 1, or None"))


def check_span(denoiser: Denoiser, noise: bool, t_min: float, t_max: float) -> None:
    """Times from 0 to the end of the process, and an equation that is finite where it starts.

    noise : whether the equation has any.
    """
    process = denoiser.process
    if not 0 <= t_min < t_max <= process.end * (1 + ROUNDING):
        advice = f"Time runs from 0 (data) to {process.end:g} (noise) for {process}."
        got, accepted = f"{t_min!r} and {t_max!r}", f"0 <= t_min < t_max <= {process.end:g}"
        raise ValueError(message("t_min, t_max", got, accepted, advice))
    if noise or t_max > denoiser.flow_end:
        g = float(process.diffusion_rate(torch.tensor(t_max, dtype=torch.float64)))
        if not math.isfinite(g):
            what = "the reverse SDE" if noise else f"the flow of a {denoiser.prediction!r} prediction"
            accepted = f"t_max <= {process.rates_end:g} for {what}, as the rates of {process} are infinite at {t_max:g}"
            raise ValueError(message("t_max", repr(t_max), accepted))


def _integer(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)
