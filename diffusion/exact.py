"""Distributions whose score and log-density are known at every time: Gaussians and their mixtures.

    p_0 = sum_k w_k N(m_k, S_k)      =>      p_t = sum_k w_k N(alpha m_k + shift, alpha^2 S_k + sigma^2 I)

Each S_k is diagonalised once, S_k = U_k diag(l_k) U_k^T; at every t only its eigenvalues change.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sdesolve.errors import message

from .denoiser import Denoiser
from .prediction import ScorePrediction
from .process import Process, broadcast_time

__all__ = ["ExactDenoiser", "Gaussian", "GaussianMixture"]


class GaussianMixture(nn.Module):
    """sum_k w_k N(m_k, S_k) with full covariances.

    Parameters
    ----------
    means : ``(K, *state)``.
    covariances : ``(K, D, D)`` with D the number of components of a state (in row-major order), symmetric and
        positive semidefinite. A singular one has no density at t = 0, but has one at every t > 0.
    weights : ``(K,)``, positive; scaled to sum 1. Default: all equal.

    All are kept in the dtype of `means`; use float64 for exactness near 1e-12.

    Raises
    ------
    ValueError : shapes that do not fit, a covariance that is not symmetric positive semidefinite, weights
        that are not positive.

    Examples
    --------
    >>> mixture = GaussianMixture(torch.tensor([[-1.0], [1.0]]), 0.1 * torch.ones(2, 1, 1))
    >>> mixture.log_prob(torch.zeros(5, 1)).shape
    torch.Size([5])
    """

    means: Tensor
    basis: Tensor
    variances: Tensor
    log_weights: Tensor

    def __init__(self, means: Tensor, covariances: Tensor, weights: Tensor | None = None) -> None:
        super().__init__()
        if means.ndim < 2 or not means.is_floating_point():
            raise ValueError(message("means", _shape(means), "a floating-point tensor (components, *state)"))
        count, dims = means.shape[0], math.prod(means.shape[1:])
        covariances = torch.as_tensor(covariances, dtype=means.dtype, device=means.device)
        if covariances.shape != (count, dims, dims):
            accepted = f"({count}, {dims}, {dims}) for means of shape {tuple(means.shape)}"
            raise ValueError(message("covariances", _shape(covariances), accepted))
        weights = torch.ones(count) if weights is None else torch.as_tensor(weights)
        weights = weights.to(means)
        if weights.shape != (count,) or not bool(((weights > 0) & weights.isfinite()).all()):
            raise ValueError(message("weights", weights.tolist(), f"{count} positive numbers"))
        for name, values in (("means", means), ("covariances", covariances)):
            if not bool(values.isfinite().all()):
                raise ValueError(message(name, "NaN or infinite values", "finite numbers"))
        self.state = means.shape[1:]
        variances, basis = _diagonalised(covariances)
        self.register_buffer("means", means.reshape(count, dims))
        self.register_buffer("variances", variances)
        self.register_buffer("basis", basis)
        self.register_buffer("log_weights", torch.log(weights / weights.sum()))

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density in nats, ``(batch,)``, at x of shape ``(batch, *state)``."""
        one = torch.ones((), dtype=x.dtype, device=x.device)
        return torch.logsumexp(self._log_joint(one, torch.zeros_like(one), x)[0], 0)

    def sample(self, n: int, *, seed: int | None = None, generator: torch.Generator | None = None) -> Tensor:
        """n independent draws, ``(n, *state)``.

        `seed` or `generator` makes them reproducible; without either, torch's global generator is used.
        """
        if seed is not None and generator is not None:
            raise ValueError(message("seed", "seed and generator", "one of them"))
        if seed is not None:
            generator = torch.Generator(self.means.device).manual_seed(seed)
        k = torch.multinomial(self.log_weights.exp(), n, replacement=True, generator=generator)
        z = torch.randn((n, self.means.shape[1]), dtype=self.means.dtype, device=self.means.device, generator=generator)
        x = self.means[k] + torch.einsum("nij,nj->ni", self.basis[k], self.variances[k].sqrt() * z)
        return x.reshape(n, *self.state)

    def at(self, process: Process, t: float) -> GaussianMixture:
        """The law of x_t, itself a mixture, for one time t."""
        time = torch.as_tensor(t, dtype=self.means.dtype, device=self.means.device)
        if time.ndim:
            raise ValueError(message("t", _shape(time), "a single time"))
        alpha, sigma = process.alpha(time), process.sigma(time)
        moved = GaussianMixture.__new__(type(self) if type(self) is Gaussian else GaussianMixture)
        nn.Module.__init__(moved)
        moved.state = self.state
        moved.register_buffer("means", alpha * self.means + process.shift(time))
        moved.register_buffer("variances", alpha**2 * self.variances + sigma**2)
        moved.register_buffer("basis", self.basis)
        moved.register_buffer("log_weights", self.log_weights)
        return moved

    def denoiser(self, process: Process) -> ExactDenoiser:
        """The exact score, data, noise and velocity predictions and log-density at every time."""
        return ExactDenoiser(self, process)

    @property
    def covariances(self) -> Tensor:
        """``(K, D, D)``."""
        return torch.einsum("kij,kj,klj->kil", self.basis, self.variances, self.basis)

    def _log_joint(self, alpha: Tensor, sigma: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """log(w_k N(x; alpha m_k, alpha^2 S_k + sigma^2 I)) as ``(K, batch)``, and (cov)^-1 (x - mean) as
        ``(K, D, batch)``. alpha and sigma are 0-d or ``(batch, 1, ..., 1)``.

        The batch stands last: D and K are small, and what is small makes slow inner loops.
        """
        if x.ndim < 1 or x.shape[1:] != self.state:
            raise ValueError(message("x", f"shape {tuple(x.shape)}", f"(batch, {', '.join(map(str, self.state))})"))
        alpha, sigma = alpha.reshape(-1), sigma.reshape(-1)
        offset = x.reshape(x.shape[0], -1).transpose(0, 1) - alpha * self.means[:, :, None]
        z = torch.einsum("kib,kij->kjb", offset, self.basis)
        variances = alpha**2 * self.variances[:, :, None] + sigma**2
        whitened = z / variances
        log_normal = -0.5 * (z * whitened + torch.log(2 * math.pi * variances)).sum(1)
        return self.log_weights[:, None] + log_normal, torch.einsum("kjb,kij->kib", whitened, self.basis)


class Gaussian(GaussianMixture):
    """N(mean, covariance): the mixture with one component.

    Parameters
    ----------
    mean : ``(*state)``. covariance : ``(D, D)``, as for :class:`GaussianMixture`.
    """

    def __init__(self, mean: Tensor, covariance: Tensor) -> None:
        super().__init__(mean[None], covariance[None])

    @classmethod
    def fit(cls, x: Tensor) -> Gaussian:
        """The Gaussian with the mean and covariance (divided by n) of the rows of x, ``(n, *state)``: the one
        of maximum likelihood."""
        if x.ndim < 2 or x.shape[0] < 2:
            raise ValueError(message("x", _shape(x), "at least two rows, (n, *state)"))
        flat = x.flatten(1)
        return cls(x.mean(0), torch.cov(flat.T, correction=0).reshape(flat.shape[1], flat.shape[1]))


class _Score(nn.Module):
    """grad_x log p_t(x)."""

    def __init__(self, mixture: GaussianMixture, process: Process) -> None:
        super().__init__()
        self.mixture, self.process = mixture, process

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return ExactPrediction(self.mixture, self.process, broadcast_time(t, x), x).score


class ExactPrediction(ScorePrediction):
    """Two averages over the components k given x, finite at both ends.

    ::

        score = -E[(cov_k)^-1 (x - mean_k)],      data = E[m_k + alpha S_k (cov_k)^-1 (x - mean_k)]

    finite_rates : whether f and g are finite up to the end; the flow is then found by the score alone.
    """

    def __init__(
        self, mixture: GaussianMixture, process: Process, t: Tensor | float, x: Tensor, finite_rates: bool = True
    ) -> None:
        super().__init__(process, t, x, x)
        self.mixture, self.finite_rates = mixture, finite_rates
        log_joint, self.gradient = _log_joint(mixture, process, self.t, x)
        self.chosen = torch.softmax(log_joint, 0)[:, None]
        self.out = self._averaged(-self.gradient)

    @property
    def data(self) -> Tensor:
        pulled = torch.einsum("kij,kjb->kib", self.mixture.covariances, self.gradient)
        return self._averaged(self.mixture.means[:, :, None] + self.alpha.reshape(-1) * pulled)

    @property
    def flow(self) -> Tensor:
        if self.finite_rates:
            return super().flow
        # sigma' noise = -(sigma^2)' score / 2
        moved = self.process.alpha_rate(self.t) * self.data - 0.5 * self.process.variance_rate(self.t) * self.score
        return moved + self.process.shift_rate(self.t) if self.process.shifted else moved

    def _averaged(self, values: Tensor) -> Tensor:
        """Over the components, of ``(K, D, batch)``."""
        return (self.chosen * values).sum(0).transpose(0, 1).reshape(self.x.shape)


class ExactDenoiser(Denoiser):
    """The denoiser of a mixture: as :class:`diffusion.Denoiser`, with ``log_prob(t, x)`` beside it.

    The score is exact at t = 0 too if no covariance is singular; data and flow are so wherever the score is, the end of
    `RectifiedFlow` included.
    """

    def __init__(self, mixture: GaussianMixture, process: Process) -> None:
        super().__init__(_Score(mixture, process), process, prediction="score")
        self.mixture = mixture
        self.finite_rates = process.rates_end == process.end

    @property
    def flow_end(self) -> float:
        """The process's end."""
        return self.process.end

    def predict(self, t: Tensor | float, x: Tensor) -> ExactPrediction:
        """All quantities at (t, x)."""
        return ExactPrediction(self.mixture, self.process, t, x, self.finite_rates)

    def log_prob(self, t: Tensor | float, x: Tensor) -> Tensor:
        """log p_t(x) in nats, ``(batch,)``."""
        t = broadcast_time(t, x)
        return torch.logsumexp(_log_joint(self.mixture, self.process, t, x)[0], 0)

    def energy(self, t: Tensor | float, x: Tensor) -> Tensor:
        """-log p_t(x), ``(batch,)``."""
        return -self.log_prob(t, x)


def _log_joint(mixture: GaussianMixture, process: Process, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """That of the mixture at time t of a process."""
    return mixture._log_joint(process.alpha(t), process.sigma(t), process.centred(t, x))


def _diagonalised(covariances: Tensor) -> tuple[Tensor, Tensor]:
    size = covariances.abs().amax((1, 2), keepdim=True)
    tolerance = 100 * covariances.shape[-1] * torch.finfo(covariances.dtype).eps
    if not bool(((covariances - covariances.mT).abs() <= tolerance * size).all()):
        raise ValueError(message("covariances", "a matrix that is not symmetric", "symmetric matrices"))
    variances, basis = torch.linalg.eigh(covariances)
    if not bool((variances >= -tolerance * size[:, :, 0]).all()):
        worst = float(variances.min())
        raise ValueError(message("covariances", f"an eigenvalue {worst:.3g}", "no negative eigenvalues"))
    return variances.clamp(min=0), basis


def _shape(x: Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')} of shape {tuple(x.shape)}"
