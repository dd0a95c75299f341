"""What a process does between two times s < t, exactly: from data to noise, and back where the data are known.

With  delta = log_snr(t) - log_snr(s) < 0  and  x_t | x_0 ~ N(alpha_t x_0 + shift_t, sigma_t^2 I),

    x_t | x_s      ~ N(a x_s + shift_t - a shift_s, v),      a = alpha_t / alpha_s,      v = -sigma_t^2 expm1(delta)
    x_s | x_t, x_0 ~ N(c (x_t - shift_t) + d x_0 + shift_s, (eta w)^2),      w^2 = -sigma_s^2 expm1(delta)

        kept^2 = 1 + eta^2 expm1(delta),      c = kept sigma_s / sigma_t,      d = alpha_s - alpha_t c

v is sigma_t^2 - a^2 sigma_s^2. For eta = 1 the second line is the posterior of the first, with kept = exp(delta/2); any
other eta has the same marginals, and eta = 0 no noise. That is DDIM's eta, and in small steps that of `reverse_sde`.

Coefficients are reckoned in float64, and nothing in them cancels but the two log_snr. They are finite for s = 0, where
log_snr is infinite and x_s = x_0, and for t where alpha is 0.

References
----------
Ho, Jain, Abbeel (2020). Denoising diffusion probabilistic models. NeurIPS. Eqs. (6)-(7).
Song, Meng, Ermon (2021). Denoising diffusion implicit models. ICLR. Eqs. (7), (12), (16).
Kingma, Salimans, Poole, Ho (2021). Variational diffusion models. NeurIPS. Appendix A.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sdesolve.errors import message

from .denoiser import Denoiser
from .process import Process, broadcast_time

__all__ = ["Posterior", "Transition", "check_eta", "denoised", "posterior", "transition"]


class Transition(NamedTuple):
    """x_t | x_s ~ N(scale x_s + shift, std^2 I), in float64; coefficients have the shape of the times."""

    scale: Tensor
    shift: Tensor
    std: Tensor

    def mean(self, x: Tensor) -> Tensor:
        """scale x + shift, for x of shape ``(batch, *state)`` and coefficients that are 0-d or one a row."""
        return broadcast_time(self.scale, x) * x + broadcast_time(self.shift, x)


class Posterior(NamedTuple):
    """x_s | x_t, x_0 ~ N(scale x_t + data x_0 + shift, std^2 I), in float64."""

    scale: Tensor
    data: Tensor
    shift: Tensor
    std: Tensor

    def mean(self, x: Tensor, x0: Tensor) -> Tensor:
        """scale x + data x0 + shift, for x and x0 of shape ``(batch, *state)``."""
        scale, data, shift = (broadcast_time(part, x) for part in (self.scale, self.data, self.shift))
        return scale * x + data * x0 + shift


def transition(process: Process, s: Tensor | float, t: Tensor | float) -> Transition:
    """The law of x_t given x_s.

    Parameters
    ----------
    process : the forward process.
    s, t : times of one shape, 0 <= s < t <= process.end, with alpha(s) > 0. Where s = t, std is 0.
    """
    s, t = _times(s, t)
    scale = process.alpha(t) / process.alpha(s)
    return Transition(scale, process.shift(t) - scale * process.shift(s), _std(process, t, _delta(process, s, t)))


def posterior(process: Process, s: Tensor | float, t: Tensor | float, eta: Tensor | float = 1.0) -> Posterior:
    """The law of x_s given x_t and the data x_0.

    Parameters
    ----------
    process, s, t : as for :func:`transition`; t may be where alpha is 0. Where s = t, x_s is x_t.
    eta : from 0, no noise, to 1, the posterior of the forward process (default); a number, or a tensor of the times'
        shape.

    Raises
    ------
    ValueError : a number eta that is not from 0 to 1.
    """
    if not isinstance(eta, Tensor):
        check_eta(eta)
    s, t = _times(s, t)
    delta = _delta(process, s, t)
    kept = torch.sqrt((1 - eta) * (1 + eta) + eta**2 * torch.exp(delta))
    scale = kept * torch.where(s == t, 1.0, process.sigma(s) / process.sigma(t))
    # alpha_t / alpha_s sigma_s / sigma_t = exp(delta / 2)
    data = -process.alpha(s) * torch.expm1(0.5 * (delta + torch.log1p(eta**2 * torch.expm1(delta))))
    return Posterior(scale, data, process.shift(s) - scale * process.shift(t), eta * _std(process, s, delta))


def denoised(
    denoiser: Denoiser, s: Tensor | float, t: Tensor | float, x: Tensor, eta: Tensor | float = 1.0
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of what a denoiser makes of x at time t: the posterior of x_s with its data for x_0.

    x is ``(batch, *state)``, s and t are 0-d or ``(batch,)``; the standard deviation broadcasts against x. Finite where
    the data that the denoiser predicts are: at the end of `RectifiedFlow` for data, velocity, flow and edm predictions.

    References
    ----------
    Ho, Jain, Abbeel (2020). Denoising diffusion probabilistic models. NeurIPS. Section 3.2.
    """
    kernel = posterior(denoiser.process, s, t, eta)
    return kernel.mean(x, denoiser.data(t, x)), broadcast_time(kernel.std, x)


def check_eta(eta: float) -> None:
    """Raise unless 0 <= eta <= 1: above, more noise is asked for than x_s has."""
    if not 0 <= eta <= 1:
        raise ValueError(message("eta", repr(eta), "a number from 0 (no noise) to 1 (the posterior)"))


def _times(s: Tensor | float, t: Tensor | float) -> tuple[Tensor, Tensor]:
    device = next((x.device for x in (s, t) if isinstance(x, Tensor)), None)
    first, last = (torch.as_tensor(x, dtype=torch.float64, device=device) for x in (s, t))
    return first, last


def _delta(process: Process, s: Tensor, t: Tensor) -> Tensor:
    """log_snr(t) - log_snr(s); 0 where the times are the same, though log_snr be infinite."""
    return torch.where(s == t, 0.0, process.log_snr(t) - process.log_snr(s))


def _std(process: Process, t: Tensor, delta: Tensor) -> Tensor:
    return process.sigma(t) * torch.sqrt(-torch.expm1(delta))
