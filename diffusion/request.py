"""What sample() was asked for, checked: every mistake is named before anything is computed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from sdesolve.errors import message

from .denoiser import Denoiser
from .prior import Prior, check_seed

__all__ = [
    "check_count",
    "check_seed",
    "check_shape",
    "check_span",
    "check_states",
    "dtype_and_device",
    "starting_state",
]

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


def check_states(name: str, x: Any) -> None:
    """Floating-point states ``(batch, *state)``, at least one, of at least one component."""
    accepted = "(batch, *state) of floating-point numbers, at least one state of at least one component"
    if not isinstance(x, Tensor):
        raise TypeError(message(name, type(x).__name__, f"a tensor {accepted}"))
    if not x.is_floating_point():
        raise TypeError(message(name, str(x.dtype).removeprefix("torch."), accepted))
    if x.ndim < 2 or not x.numel():
        raise ValueError(message(name, f"shape {tuple(x.shape)}", accepted))


def check_count(name: str, count: Any, least: int = 1) -> None:
    """A number of things, at least `least`."""
    if not _integer(count) or count < least:
        raise ValueError(message(name, repr(count), f"an integer, at least {least}"))


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


def dtype_and_device(
    denoiser: Denoiser, dtype: torch.dtype | None, device: torch.device | str | None
) -> tuple[torch.dtype, torch.device | str]:
    """dtype and device of the denoiser's parameters (or buffers), unless given."""
    tensors = [*denoiser.parameters(), *denoiser.buffers()]
    first = next((x for x in tensors if x.is_floating_point()), torch.empty(0))
    return first.dtype if dtype is None else dtype, first.device if device is None else device


def starting_state(
    denoiser: Denoiser,
    prior: Prior | Tensor | None,
    t_max: float,
    shape: tuple[int, ...],
    seed: int,
    paths: Sequence[int] | Tensor | None,
    dtype: torch.dtype,
    device: torch.device | str,
) -> Tensor:
    """What generation starts from: the prior itself, or draws from it."""
    if isinstance(prior, Tensor):
        if prior.shape != shape:
            raise ValueError(message("prior", f"a tensor of shape {tuple(prior.shape)}", f"shape {shape}"))
        if prior.is_complex():
            raise TypeError(message("prior", f"a tensor of {prior.dtype}", "real numbers"))
        return prior.to(dtype=dtype, device=device)
    source: Prior = denoiser.process.prior_at(t_max) if prior is None else prior
    if not callable(getattr(source, "sample", None)):
        raise TypeError(message("prior", type(source).__name__, "a tensor, or an object with a method sample"))
    return source.sample(shape, seed=seed, paths=paths, dtype=dtype, device=device)
