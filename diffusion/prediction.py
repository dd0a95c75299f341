"""What a network said at (t, x), seen as any of the quantities that it could have said instead.

With x_t = alpha x_0 + shift + sigma eps, and expectations given x_t = x:

    data = E[x_0],      noise = E[eps],      score = -noise / sigma,      velocity = alpha noise - sigma data
    flow = E[dx_t / dt] = alpha' data + sigma' noise + shift',      the right-hand side of the probability flow

Any one determines the others, since x = alpha data + shift + sigma noise. Each class writes them in the form that stays
finite where its own prediction does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .process import Process, broadcast_time

__all__ = ["PREDICTIONS", "PreconditionedPrediction", "Preconditioning", "Prediction"]


class Prediction:
    """A prediction `out` for a process at time t and state x; all are of x's shape, or broadcast against it."""

    flows_without_data = False
    """Whether `flow` is finite where alpha is 0."""

    def __init__(self, process: Process, t: Tensor | float, x: Tensor, out: Tensor) -> None:
        self.process, self.x, self.out = process, x, out
        self.t = broadcast_time(t, x)

    @property
    def alpha(self) -> Tensor:
        return self.process.alpha(self.t)

    @property
    def sigma(self) -> Tensor:
        return self.process.sigma(self.t)

    @property
    def centred(self) -> Tensor:
        """x - shift = alpha data + sigma noise."""
        return self.process.centred(self.t, self.x)

    @property
    def data(self) -> Tensor:
        """E[x_0 | x_t = x]."""
        return (self.centred - self.sigma * self.noise) / self.alpha

    @property
    def noise(self) -> Tensor:
        """E[eps | x_t = x]."""
        return (self.centred - self.alpha * self.data) / self.sigma

    @property
    def score(self) -> Tensor:
        """grad_x log p_t(x)."""
        return -self.noise / self.sigma

    @property
    def velocity(self) -> Tensor:
        """alpha noise - sigma data."""
        return self.alpha * self.noise - self.sigma * self.data

    @property
    def flow(self) -> Tensor:
        """dx / dt along the probability flow, f x + b - g^2 score / 2."""
        return self.process.drift(self.t, self.x) - 0.5 * self.process.diffusion_rate(self.t) ** 2 * self.score

    def reverse_drift(self, eta: Tensor | float) -> Tensor:
        """The drift f x + b - (1 + eta^2)/2 g^2 score of the reverse family, where eta^2 is not 0."""
        return self.flow - 0.5 * eta**2 * self.process.diffusion_rate(self.t) ** 2 * self.score


class NoisePrediction(Prediction):
    @property
    def noise(self) -> Tensor:
        return self.out


class ScorePrediction(Prediction):
    @property
    def score(self) -> Tensor:
        return self.out

    @property
    def noise(self) -> Tensor:
        return -self.sigma * self.out


class DataPrediction(Prediction):
    """Finite where alpha is 0 too: of the noise there is no doubt then."""

    flows_without_data = True

    @property
    def data(self) -> Tensor:
        return self.out

    @property
    def flow(self) -> Tensor:
        # alpha' data + sigma' (x - shift - alpha data) / sigma + shift'
        growth = self.process.sigma_rate(self.t) / self.sigma
        scaled = growth * self.centred + (self.process.alpha_rate(self.t) - self.alpha * growth) * self.data
        return scaled + self.process.shift_rate(self.t) if self.process.shifted else scaled


class VelocityPrediction(Prediction):
    """References: Salimans & Ho (2022). Progressive distillation for fast sampling of diffusion models. Appendix D."""

    flows_without_data = True

    @property
    def velocity(self) -> Tensor:
        return self.out

    @property
    def data(self) -> Tensor:
        return (self.alpha * self.centred - self.sigma * self.out) / self._total

    @property
    def noise(self) -> Tensor:
        return (self.sigma * self.centred + self.alpha * self.out) / self._total

    @property
    def flow(self) -> Tensor:
        alpha_rate, sigma_rate = self.process.alpha_rate(self.t), self.process.sigma_rate(self.t)
        along = 0.5 * (2 * self.alpha * alpha_rate + self.process.variance_rate(self.t))
        scaled = (along * self.centred + (self.alpha * sigma_rate - self.sigma * alpha_rate) * self.out) / self._total
        return scaled + self.process.shift_rate(self.t) if self.process.shifted else scaled

    @property
    def _total(self) -> Tensor:
        return self.alpha**2 + self.process.variance(self.t)


class FlowPrediction(Prediction):
    """References: Lipman et al. (2023). Flow matching for generative modeling. ICLR. Eq. (8), for the field."""

    flows_without_data = True

    @property
    def flow(self) -> Tensor:
        return self.out

    @property
    def data(self) -> Tensor:
        return (self.process.sigma_rate(self.t) * self.centred - self.sigma * self._moving) / self._turning

    @property
    def noise(self) -> Tensor:
        return (self.alpha * self._moving - self.process.alpha_rate(self.t) * self.centred) / self._turning

    @property
    def _moving(self) -> Tensor:
        """alpha' data + sigma' noise."""
        return self.out - self.process.shift_rate(self.t) if self.process.shifted else self.out

    @property
    def _turning(self) -> Tensor:
        """alpha sigma' - sigma alpha'."""
        return self.alpha * self.process.sigma_rate(self.t) - self.sigma * self.process.alpha_rate(self.t)


class Preconditioning:
    """A network between scalings that keep its input and its target at variance 1, for data of variance sigma_data^2.

    ::

        data = c_skip (x - shift) + c_out net(c_in (x - shift), c),      total = sigma^2 + alpha^2 sigma_data^2
        c_skip = alpha sigma_data^2 / total,      c_out = sigma sigma_data / sqrt(total),      c_in = 1 / sqrt(total)
        c = log(sigma / alpha) / 4,      cut at `FARTHEST`

    That of Karras et al. for x / alpha, whose noise is sigma / alpha; finite where alpha or sigma is 0.

    References
    ----------
    Karras, Aittala, Aila & Laine (2022). Elucidating the design space of diffusion-based generative models. NeurIPS.
    Table 1, eq. (7).
    """

    def __init__(self, process: Process, sigma_data: float, t: Tensor, x: Tensor) -> None:
        self.alpha, self.sigma, self.sigma_data = process.alpha(t), process.sigma(t), sigma_data
        self.total = self.sigma**2 + (self.alpha * sigma_data) ** 2
        self.centred = process.centred(t, x)
        self.clock = (-process.log_snr(t) / 8).clamp(-FARTHEST, FARTHEST)

    @property
    def input(self) -> Tensor:
        return self.centred / torch.sqrt(self.total)

    def data(self, out: Tensor) -> Tensor:
        skip = self.alpha * self.sigma_data**2 / self.total
        return skip * self.centred + self.sigma * self.sigma_data / torch.sqrt(self.total) * out

    def noise(self, out: Tensor) -> Tensor:
        """(x - shift - alpha data) / sigma, without the difference."""
        return self.sigma / self.total * self.centred - self.alpha * self.sigma_data / torch.sqrt(self.total) * out


#: greatest |c| that a preconditioned network is asked for; sigma / alpha is then 2e17
FARTHEST = 10.0


class PreconditionedPrediction(DataPrediction):
    """A network's output between those scalings; data and noise are finite, and exact to rounding, at both ends."""

    def __init__(self, scales: Preconditioning, process: Process, t: Tensor, x: Tensor, out: Tensor) -> None:
        super().__init__(process, t, x, scales.data(out))
        self._noise = scales.noise(out)

    @property
    def noise(self) -> Tensor:
        return self._noise

    @property
    def flow(self) -> Tensor:
        moved = self.process.alpha_rate(self.t) * self.data + self.process.sigma_rate(self.t) * self.noise
        return moved + self.process.shift_rate(self.t) if self.process.shifted else moved


PREDICTIONS: dict[str, type[Prediction]] = {
    "noise": NoisePrediction,
    "data": DataPrediction,
    "velocity": VelocityPrediction,
    "score": ScorePrediction,
    "flow": FlowPrediction,
    "edm": PreconditionedPrediction,
    "energy": ScorePrediction,
    "scaled_energy": NoisePrediction,
}
"""What a denoiser hands over, by the name of its prediction; of an energy it is a gradient."""

ENERGIES = ("energy", "scaled_energy")
"""Predictions that are a number a trajectory, which is differentiated."""
