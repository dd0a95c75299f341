"""What Langevin samplers share: scores by function or denoiser, output times, checks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

import sdesolve as ss
from sdesolve.errors import message

from ..denoiser import Denoiser
from ..request import ROUNDING, check_count

__all__ = [
    "Field",
    "Scored",
    "check_positive",
    "check_temperature",
    "naming_the_step",
    "output_times",
    "score_field",
    "shown",
]

Field = Callable[[Tensor], Tensor]


class Scored(nn.Module):
    """score(x) as a function of (t, x)."""

    def __init__(self, field: Field) -> None:
        super().__init__()
        self.field = field

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return self.field(x)


class ScoreAt(nn.Module):
    """A denoiser's score at one time, for any t."""

    time: Tensor

    def __init__(self, denoiser: Denoiser, time: float) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.register_buffer("time", torch.tensor(time, dtype=torch.float64), persistent=False)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return self.denoiser.score(self.time, x)


def score_field(score: Field | Denoiser | None, t: float | None) -> nn.Module:
    """What was given as score, as a module (t, x) -> score."""
    if isinstance(score, Denoiser):
        if t is None:
            raise ValueError(message("t", "None with a denoiser", "the time at which its score is asked for"))
        if not 0 <= t <= score.process.end * (1 + ROUNDING):
            raise ValueError(
                message("t", repr(t), f"a time from 0 to the end of {score.process}, {score.process.end:g}")
            )
        return ScoreAt(score, float(t))
    if t is not None:
        raise ValueError(message("t", repr(t), "None for a function score(x)"))
    if not callable(score):
        accepted = "a function score(x), a diffusion.Denoiser, or None with log_prob"
        raise TypeError(message("score", type(score).__name__, accepted))
    return Scored(score)


def output_times(step: float, steps: int, trajectory: int | None) -> Tensor:
    """The start, and k = `trajectory` times at equal distances (default 1)."""
    check_positive("step", step)
    check_count("steps", steps)
    count = 1 if trajectory is None else trajectory
    if count < 1 or steps % count:
        raise ValueError(message("trajectory", repr(trajectory), f"a divisor of the {steps} steps"))
    return torch.linspace(0, steps * step, count + 1, dtype=torch.float64)


def shown(ys: Tensor, trajectory: int | None) -> Tensor:
    """The end, or with `trajectory` all outputs."""
    return ys[-1] if trajectory is None else ys


def check_positive(name: str, value: float) -> None:
    """Positive and finite."""
    if not (math.isfinite(value) and value > 0):
        raise ValueError(message(name, repr(value), "a positive, finite number"))


def check_temperature(value: float, positive: bool = False) -> None:
    """Finite, and not negative, or positive."""
    if not (math.isfinite(value) and (value > 0 or (value == 0 and not positive))):
        accepted = "a positive, finite number" if positive else "a finite number >= 0"
        raise ValueError(message("temperature", repr(value), accepted))


@contextmanager
def naming_the_step() -> Iterator[None]:
    """A solve that fails is told what that means for Langevin dynamics."""
    try:
        yield
    except ss.SolveError as error:
        error.add_note("Langevin steps are stable up to a few times the smallest variance of the law: shorten step.")
        raise
