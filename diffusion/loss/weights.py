"""How the errors of different times are weighted in a loss, and how often each time is looked at.

A weighting says in the error of which quantity it is stated, and under which law of times it is constant there:

    loss = total E_{t ~ law} E |error of the quantity|^2 / D = int w(t) E |error of the noise|^2 / D dt

What a network's own error counts in an estimate, with times from any law, is then a product of powers of what is finite
at both ends: nothing is multiplied by an infinite weight that the error would have had to cancel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sdesolve.errors import message

from ..denoiser import Denoiser
from ..process import Process
from ..request import check_states
from .target import alpha_power, error_size, quantity, turning
from .times import CappedLaw, LogSnrLaw, TimeLaw, UniformLaw, capped, even_fractions, log_snr_law

__all__ = ["TIMES", "WEIGHTINGS", "WeightedLoss"]

WEIGHTINGS = {
    "simple": ("noise", "uniform"),
    "constant": (None, "uniform"),
    "data": ("data", "uniform"),
    "velocity": ("velocity", "uniform"),
    "flow": ("flow", "uniform"),
    "likelihood": ("noise", "log_snr"),
    "balanced": ("noise", "balanced"),
    "min_snr": ("noise", "min_snr"),
    "edm": ("edm", "log_normal"),
    "logit_normal": ("flow", "logit_normal"),
}
"""The quantity (None: what the network predicts), and the law of times under which its error has constant weight."""

TIMES = ("uniform", "log_snr", "balanced", "log_normal", "logit_normal", "importance")

NORMALS = {"log_normal": (-1.2, 1.2), "logit_normal": (0.0, 1.0)}
"""Mean and standard deviation of log(sigma / alpha): of Karras et al. (2022), table 1, and of Esser et al. (2024)."""

STRESS = (0.5, 0.0, 3.0)
"""Share, mean and standard deviation, in log_snr, of the normal part of "balanced"."""


@dataclass(frozen=True, kw_only=True)
class WeightedLoss:
    """What losses over the times of a process share; see :class:`diffusion.DenoisingLoss` for the arguments."""

    weighting: str = "simple"
    times: str = "uniform"
    t_min: float = 1e-5
    t_max: float | None = None
    gamma: float = 5.0
    mean: float | None = None
    std: float | None = None

    def __post_init__(self) -> None:
        if self.weighting not in WEIGHTINGS:
            raise ValueError(message("weighting", repr(self.weighting), " or ".join(map(repr, WEIGHTINGS))))
        if self.times not in TIMES:
            raise ValueError(message("times", repr(self.times), " or ".join(map(repr, TIMES))))
        if not 0 < self.t_min < (math.inf if self.t_max is None else self.t_max):
            got = f"{self.t_min!r} and {self.t_max!r}"
            raise ValueError(message("t_min, t_max", got, "0 < t_min < t_max"))
        for name in ("gamma", "std"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(message(name, repr(value), "a positive, finite number"))
        if self.mean is not None and not math.isfinite(self.mean):
            raise ValueError(message("mean", repr(self.mean), "a finite number"))

    def draw_times(
        self, denoiser: Denoiser, x0: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Times ``(batch,)`` for the examples x0, and their density; evenly spaced in the law they are drawn from."""
        law = self._times(denoiser)
        t = law.quantile(even_fractions(x0, generator))
        return t, law.density(t) * (_log_snr_speed(denoiser.process, t) if law.per_log_snr else 1.0)

    def weight(self, denoiser: Denoiser, t: Tensor, of: str = "noise") -> Tensor:
        """w(t): what the squared error of the noise counts at time t, or that of another prediction."""
        return self._counts(denoiser, t, of, None)

    def span(self, denoiser: Denoiser) -> tuple[float, float]:
        """t_min and t_max."""
        process = denoiser.process
        short = process.rates_end < process.end and self._infinite_without_data(denoiser)
        greatest = process.rates_end if short else process.end
        last = greatest if self.t_max is None else self.t_max
        if not self.t_min < last <= process.end or (short and last == process.end):
            got = f"{last!r} with t_min={self.t_min!r} for {process!r}, {denoiser.prediction!r}"
            accepted = f"t_min < t_max {'<' if short else '<='} {process.end!r}"
            advice = f"Weights or times of {self!r} are infinite at the end; take t_max={greatest!r}." if short else ""
            raise ValueError(message("t_max", got, accepted, advice))
        return self.t_min, last

    def _space(self, denoiser: Denoiser) -> str:
        """The quantity whose error is taken."""
        return quantity(denoiser)

    def _infinite_without_data(self, denoiser: Denoiser) -> bool:
        """Whether a time where alpha is 0 counts infinitely, or needs the log_snr that is infinite there."""
        stated, natural = self._stated(denoiser)
        used = {natural, natural if self.times == "importance" else self.times}
        unbounded = bool(used & {"log_snr", "balanced"}) or (len(used) > 1 and bool(used & NORMALS.keys()))
        return unbounded or alpha_power(self._space(denoiser)) < alpha_power(stated)

    def _stated(self, denoiser: Denoiser) -> tuple[str, str]:
        """The quantity whose error the weighting is stated in, and its law."""
        stated, law = WEIGHTINGS[self.weighting]
        return quantity(denoiser) if stated is None else stated, law

    def _draw(self, denoiser: Denoiser, x0: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor, Tensor]:
        """Times, what a squared error counts there, and noise."""
        check_states("x0", x0)
        law = self._times(denoiser)
        t = law.quantile(even_fractions(x0, generator))
        noise = torch.randn(x0.shape, dtype=x0.dtype, device=x0.device, generator=generator)
        return t, self._counts(denoiser, t, self._space(denoiser), law), noise

    def _counts(self, denoiser: Denoiser, t: Tensor, of: str, times: TimeLaw | None) -> Tensor:
        """The weight on the squared error of a quantity, over the density of times drawn from a law."""
        process, (stated, natural) = denoiser.process, self._stated(denoiser)
        law = self._law(natural, process, *self.span(denoiser))
        if natural == "min_snr":
            density = capped(process, t, self.gamma) / (law.last - law.first)
        else:
            total = 0.5 * law.width if self.weighting == "likelihood" and isinstance(law, LogSnrLaw) else 1.0
            density = torch.full_like(t, total) if law == times else total * law.density(t)
        counts = density
        if times is not None and (law != times or natural == "min_snr"):
            counts = counts / times.density(t)
        speeds = law.per_log_snr - (times is not None and times.per_log_snr)
        if speeds:
            counts = counts * (2 * turning(process, t) / process.sigma(t)) ** speeds
        if stated != of:
            counts = counts * (self._size(stated, denoiser, t) / self._size(of, denoiser, t)) ** 2
        power = 2 * (alpha_power(of) - alpha_power(stated)) - speeds
        if power:
            counts = counts * process.alpha(t) ** power
        return torch.where(density == 0, density, counts)  # the tail of a normal in log_snr falls faster than all grows

    @staticmethod
    def _size(name: str, denoiser: Denoiser, t: Tensor) -> Tensor:
        return error_size(name, denoiser.process, t, denoiser.sigma_data)

    def _times(self, denoiser: Denoiser) -> TimeLaw:
        name = WEIGHTINGS[self.weighting][1] if self.times == "importance" else self.times
        return self._law(name, denoiser.process, *self.span(denoiser))

    def _law(self, name: str, process: Process, first: float, last: float) -> TimeLaw:
        if name == "uniform":
            return UniformLaw(process, first, last)
        if name == "log_snr":
            return LogSnrLaw(process, first, last)
        if name == "balanced":
            return LogSnrLaw(process, first, last, *STRESS)
        if name == "min_snr":
            return CappedLaw(process, first, last, self.gamma)
        mean, std = NORMALS[name]
        mean, std = mean if self.mean is None else self.mean, std if self.std is None else self.std
        return log_snr_law(process, first, last, mean, std)


def _log_snr_speed(process: Process, t: Tensor) -> Tensor:
    """-d log_snr / dt = g^2 / sigma^2."""
    return (process.diffusion_rate(t) / process.sigma(t)) ** 2
