"""Networks between scalings: in place of a Gaussian's exact denoiser, or inputs of order 1."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sdesolve.errors import message

from ..exact import Gaussian
from ..prediction import Prediction
from ..process import Process, broadcast_time

__all__ = ["GaussianPreconditioned", "Rescaled"]


class GaussianPreconditioned(nn.Module):
    """The exact denoiser of N(mean, S), and a network for what data have beyond their covariance.

    ::

        C = alpha^2 S + sigma^2 I,      w = C^-1/2 (x - alpha mean)
        noise(t, x) = sigma C^-1/2 w - alpha (S C^-1)^1/2 net(c, [w, x]),      c = log_snr / 8
        data(t, x) = mean + alpha S C^-1/2 w + sigma (S C^-1)^1/2 net(c, [w, x])

    The two are one statement, as x = alpha data + sigma noise. All matrix functions are symmetric and share the
    eigenvectors of S. The input w has covariance I at every t, and so has what is left for the network to predict if
    the data are Gaussian: this is the preconditioning of Karras et al. (2022, section 5) with a full covariance in
    place of one variance. With a network that returns zero, it is the Gaussian's exact denoiser.

    Parameters
    ----------
    net : ``net(c, h) -> (batch, channels, *size)`` for c of shape ``(batch,)`` and h of shape
        ``(batch, 2 channels, *size)``, which holds w and x (over sqrt(alpha^2 + sigma^2), for a process whose noise
        grows beyond 1).
    process : the forward process, of data that are not shifted.
    gaussian : the Gaussian, for states ``(channels, *size)``; typically :meth:`diffusion.exact.Gaussian.fit`
        of the training data.
    prediction : what is returned: ``"noise"``, ``"data"``, ``"velocity"``, ``"score"`` or ``"flow"``, as of
        :class:`diffusion.Denoiser`.

    Raises
    ------
    ValueError : another prediction, or states of another shape.

    References
    ----------
    Karras, Aittala, Aila, Laine (2022). Elucidating the design space of diffusion-based generative models.
    NeurIPS.
    """

    mean: Tensor
    variances: Tensor
    basis: Tensor

    def __init__(self, net: nn.Module, process: Process, gaussian: Gaussian, prediction: str = "noise") -> None:
        super().__init__()
        if prediction not in ("noise", "data", "velocity", "score", "flow"):
            accepted = "'noise', 'data', 'velocity', 'score' or 'flow'"
            advice = "The prediction 'edm' has scalings of its own, for a network alone."
            raise ValueError(message("prediction", repr(prediction), accepted, advice))
        self.net, self.process, self.state, self.prediction = net, process, tuple(gaussian.state), prediction
        self.grows = process.prior.scale > 1.01
        dtype = torch.get_default_dtype()
        self.register_buffer("mean", gaussian.means[0].to(dtype))
        self.register_buffer("variances", gaussian.variances[0].to(dtype))
        self.register_buffer("basis", gaussian.basis[0].to(dtype))

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        if x.shape[1:] != self.state:
            accepted = f"(batch, {', '.join(map(str, self.state))})"
            raise ValueError(message("x", f"shape {tuple(x.shape)}", accepted))
        t = broadcast_time(t, x).reshape(-1).expand(x.shape[0])
        alpha, sigma = self.process.alpha(t)[:, None], self.process.sigma(t)[:, None]
        total = alpha**2 * self.variances + sigma**2
        whitened = ((x.flatten(1) - alpha * self.mean) @ self.basis) / total.sqrt()
        w = (whitened @ self.basis.T).reshape(x.shape)
        seen = _rescaled(self.process, t, x) if self.grows else x
        correction = self.net(self.process.log_snr(t) / 8, torch.cat([w, seen], 1)).flatten(1) @ self.basis
        spread = self.variances.sqrt()
        noise = self._turned((sigma * whitened - alpha * spread * correction) / total.sqrt(), x)
        if self.prediction == "noise":
            return noise
        data = self._turned(spread * (alpha * spread * whitened + sigma * correction) / total.sqrt(), x)
        both = BothKnown(self.process, t, x, self.mean.reshape(x.shape[1:]) + data, noise)
        found: Tensor = getattr(both, self.prediction)
        return found

    def _turned(self, z: Tensor, x: Tensor) -> Tensor:
        """From the eigenvectors' coordinates back to states."""
        return (z @ self.basis.T).reshape(x.shape)


class BothKnown(Prediction):
    """What follows from data and noise that are both known, without a division by alpha."""

    def __init__(self, process: Process, t: Tensor, x: Tensor, data: Tensor, noise: Tensor) -> None:
        super().__init__(process, t, x, noise)
        self._data, self._noise = data, noise

    @property
    def data(self) -> Tensor:
        return self._data

    @property
    def noise(self) -> Tensor:
        return self._noise

    @property
    def flow(self) -> Tensor:
        return self.process.alpha_rate(self.t) * self.data + self.process.sigma_rate(self.t) * self.noise


class Rescaled(nn.Module):
    """net(c, x / sqrt(alpha^2 + sigma^2)), c = log_snr / 8: a network's output as it is, between inputs of order 1."""

    def __init__(self, net: nn.Module, process: Process) -> None:
        super().__init__()
        self.net, self.process = net, process

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        """``(batch,)`` times and ``(batch, *state)`` to the network's prediction, ``(batch, *state)``."""
        found: Tensor = self.net(self.process.log_snr(t) / 8, _rescaled(self.process, t, x))
        return found


def _rescaled(process: Process, t: Tensor, x: Tensor) -> Tensor:
    t = broadcast_time(t, x)
    return x / torch.sqrt(process.alpha(t) ** 2 + process.variance(t))
