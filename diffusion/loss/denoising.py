"""Denoising score matching.

With x_t = alpha x_0 + sigma eps, D components, and m(t) = |noise(t, x_t) - eps|^2 / D, every loss is

    int_{t_min}^{t_max} w(t) E[m(t)] dt

and each is least for the exact denoiser.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..denoiser import Denoiser
from .target import target
from .weights import TIMES, WEIGHTINGS, WeightedLoss

__all__ = ["TIMES", "WEIGHTINGS", "DenoisingLoss", "Loss"]

Loss = Callable[[Denoiser, Tensor, torch.Generator | None], Tensor]
"""``loss(denoiser, x0, generator)``: one number for each example, ``(batch,)``."""


@dataclass(frozen=True)
class DenoisingLoss(WeightedLoss):
    """An unbiased estimate of the weighted denoising loss, one number for each example.

    The error is taken of what the network predicts, and counted as w(t) says, so that no weight is infinite where the
    network's own error is not.

    Parameters
    ----------
    weighting : the function w. T = t_max - t_min.

        - ``"simple"``: w = 1 / T, the mean squared error of the noise (Ho et al. 2020);
        - ``"constant"``: the mean squared error of what the network predicts, whatever that is: of the noise it is
          ``"simple"``; of the flow, conditional flow matching (Lipman et al. 2023, eq. (9)); with ``"edm"``, the
          network's own, so that the data's counts 1 / c_out^2 (Karras et al. 2022, table 1);
        - ``"data"``, ``"velocity"``, ``"flow"``: the mean squared error of that, whatever the network predicts;
        - ``"likelihood"``: w = g^2 / (2 sigma^2), so that the loss is 1/2 int g^2 |score - conditional
          score|^2 dt / D, the part of the negative log-likelihood bound that depends on the denoiser, in nats
          a component (Song et al. 2021, theorem 1);
        - ``"balanced"``: w = q(log_snr) g^2 / sigma^2 with q half the uniform density over the span of log_snr
          and half the normal density N(0, 3^2) cut to it: likelihood at every scale, and stress on those where
          the shape of an image is decided (compare Karras et al. 2022, section 5);
        - ``"min_snr"``: w = min(1, gamma exp(-log_snr)) / T (Hang et al. 2023);
        - ``"edm"``: E |error of the data|^2 / c_out^2 over log(sigma / alpha) ~ N(-1.2, 1.2^2) cut to the span, the
          training of Karras et al. (2022), eq. (2) and table 1, in full;
        - ``"logit_normal"``: E |error of the flow|^2 over log(sigma / alpha) ~ N(0, 1) cut to the span; for
          `RectifiedFlow` that is logit t ~ N(0, 1), the training of Esser et al. (2024), section 3.1.
    times : how times are drawn. It changes the variance of the estimate, not its mean.

        - ``"uniform"`` in t;
        - ``"log_snr"``, uniform in the log signal-to-noise ratio;
        - ``"balanced"``, log_snr with the density q above;
        - ``"log_normal"``, ``"logit_normal"``: log(sigma / alpha) normal as above. These look away from the ends, and
          weights that do not are then large and rare there;
        - ``"importance"``: so that all draws count the same in the error that the weighting names: ``"log_snr"`` for
          likelihood, as g^2 / sigma^2 = -d log_snr / dt; ``"balanced"``, ``"log_normal"`` and ``"logit_normal"`` for
          balanced, edm and logit_normal; density proportional to w, by a table, for min_snr; ``"uniform"`` else.

        The draws of a batch are evenly spaced in their law with one random offset (Kingma et al. 2021,
        appendix I.1), which lowers the variance further.
    t_min, t_max : the span of times, ``0 < t_min < t_max <= process.end``; default 1e-5 and the end of the process, but
        its `rates_end` (0.999 for `RectifiedFlow`) if nothing is left of the data at the end and the weight on the
        network's error, or a log_snr that weights or times need, is infinite there: with likelihood and balanced
        weights, with times that are neither uniform nor of importance, and where noise or score are predicted but
        another error is weighted.
    gamma : of ``"min_snr"``; default 5.
    mean, std : of log(sigma / alpha), for ``"edm"`` and ``"log_normal"``, default -1.2 and 1.2, and for
        ``"logit_normal"``, default 0 and 1.

    Raises
    ------
    ValueError : a name that is not listed above, times out of order or beyond the end, gamma or std not positive.

    References
    ----------
    Vincent (2011). A connection between score matching and denoising autoencoders. Neural Computation 23.
    Ho, Jain, Abbeel (2020). Denoising diffusion probabilistic models. NeurIPS.
    Song, Durkan, Murray, Ermon (2021). Maximum likelihood training of score-based diffusion models. NeurIPS.
    Kingma, Salimans, Poole, Ho (2021). Variational diffusion models. NeurIPS.
    Karras, Aittala, Aila, Laine (2022). Elucidating the design space of diffusion-based generative models.
    Lipman et al. (2023). Flow matching for generative modeling. ICLR.
    Hang et al. (2023). Efficient diffusion training via min-SNR weighting strategy. ICCV.
    Esser et al. (2024). Scaling rectified flow transformers for high-resolution image synthesis. ICML.
    """

    weighting: str = "simple"
    times: str = "uniform"
    t_min: float = 1e-5
    t_max: float | None = None

    def __call__(self, denoiser: Denoiser, x0: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Losses ``(batch,)`` of the examples x0, ``(batch, *state)``; their mean estimates the loss.

        Times and noise come from `generator` (default: torch's global one).
        """
        t, counts, noise = self._draw(denoiser, x0, generator)
        return counts * _squared_error(denoiser, t, x0, noise)

    def at(self, denoiser: Denoiser, t: Tensor, x0: Tensor, noise: Tensor) -> Tensor:
        """w(t) |noise(t, x_t) - eps|^2 / D at given times ``(batch,)`` and noise: ``(batch,)``."""
        return self.weight(denoiser, t, denoiser.prediction) * _squared_error(denoiser, t, x0, noise)


def _squared_error(denoiser: Denoiser, t: Tensor, x0: Tensor, noise: Tensor) -> Tensor:
    """|what the network says - what it should have said|^2 / D."""
    error = denoiser.output(t, denoiser.process.perturb(t, x0, noise)) - target(denoiser, t, x0, noise)
    return error.flatten(1).square().mean(1)
