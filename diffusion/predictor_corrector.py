"""Predictor-corrector sampling: a step from noise towards data, and Langevin steps that repair its marginal.

With  rho = alpha(t_i) / alpha(t_{i+1}),  b = shift(t_i) - rho shift(t_{i+1}),  G^2 = sigma(t_i)^2 - rho^2
sigma(t_{i+1})^2  (the forward step from t_{i+1} to t_i is  rho x + b + G z),  at falling times t_0 > ... > t_N:

    predictor       x <- x - (rho - 1) x - b + (1 + eta^2)/2 G^2 score(t_i, x) + eta G z
    corrector       x <- x + epsilon score(t_{i+1}, x) + sqrt(2 epsilon) z,      M times
                    epsilon = 2 rho^2 (snr sigma(t_{i+1}))^2

For eta = 1 that is reverse diffusion sampling: algorithm 2 of Song et al. for VE, algorithm 3 for VP, where rho^2 is
1 - beta_i; for eta = 0 the predictor is their probability flow, (47).

Of the corrector's step size, there is one difference. Algorithms 4 and 5 have  |z| / |score|  in the place of
sigma(t), its value for a unit prediction of the noise; their program averages both norms over the batch, so that a
sample depends on those beside it. Norms of each trajectory would make the step depend on the state and on its noise,
and the steps then have another stationary law however short they are: for a normal law in D > 2 dimensions, one with
(1 + 2/D)^2 times the variance. A step that is a function of time alone has the right law as snr -> 0.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sdesolve.errors import message

from .denoiser import Denoiser
from .reverse import Eta, amount
from .stepwise import Stepwise

__all__ = ["predictor_corrector"]


def predictor_corrector(
    denoiser: Denoiser, times: Tensor, *, eta: Eta = 1.0, corrector_steps: int = 1, snr: float = 0.16, like: Tensor
) -> Stepwise:
    """The steps along falling times ``(N + 1,)``, N times a predictor and `corrector_steps` correctors.

    Parameters
    ----------
    eta : amount of the predictor's noise, as in :func:`diffusion.reverse_sde`.
    corrector_steps : M >= 0. snr : signal-to-noise ratio of the correctors, positive.
    like : a tensor of the states' dtype and device.

    References
    ----------
    Song et al. (2021). Score-based generative modeling through stochastic differential equations. ICLR. Appendices E
    and G.
    """
    if isinstance(corrector_steps, bool) or not isinstance(corrector_steps, int) or corrector_steps < 0:
        raise ValueError(message("corrector_steps", repr(corrector_steps), "an int >= 0"))
    if not (math.isfinite(snr) and snr > 0):
        raise ValueError(message("snr", repr(snr), "a positive, finite number, such as 0.16"))
    process, (late, early) = denoiser.process, (times[:-1], times[1:])
    noise = torch.as_tensor(amount(eta, late), dtype=late.dtype, device=late.device).detach().expand_as(late)
    rho = process.alpha(late) / process.alpha(early)
    offset = process.shift(late) - rho * process.shift(early)
    added = (process.variance(late) - rho**2 * process.variance(early)).clamp(min=0)
    size = 2 * (rho * snr) ** 2 * process.variance(early)
    none = torch.zeros_like(late)
    predictor = (late, 1 - rho, -offset, 0.5 * (1 + noise**2) * added, noise * added.sqrt())
    corrector = (early, none, none, size, (2 * size).sqrt())
    rows = [torch.stack([p, *[c] * corrector_steps], 1).flatten() for p, c in zip(predictor, corrector, strict=True)]
    return Stepwise(denoiser, *rows, like=like)
