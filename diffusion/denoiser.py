"""Learned networks as denoisers: one prediction, seen as score, data, noise or velocity.

With x_t = alpha x_0 + shift + sigma eps, and expectations given x_t = x:

    data = E[x_0],      noise = E[eps],      velocity = alpha noise - sigma data,      score = -noise / sigma

Any one of them determines the others, since x = alpha data + shift + sigma noise.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from sdesolve.errors import message

from .process import Process, broadcast_time

__all__ = ["Denoiser"]

PREDICTIONS = {
    "noise": "noise",
    "epsilon": "noise",
    "data": "data",
    "sample": "data",
    "velocity": "velocity",
    "v_prediction": "velocity",
    "score": "score",
}
"""Accepted names, and the one that this package uses."""


class Denoiser(nn.Module):
    """A network and what it predicts.

    Parameters
    ----------
    net : ``net(t, x) -> prediction`` of x's shape, for t of shape ``(batch,)`` and x of shape ``(batch,
        *state)``. A module is registered.
    process : the forward process that turned data into x_t.
    prediction : what the network returns: ``"noise"`` (``"epsilon"``, the default), ``"data"``
        (``"sample"``), ``"velocity"`` (``"v_prediction"``) or ``"score"``.

    Methods ``score``, ``data``, ``noise``, ``velocity`` take t (0-d, ``(batch,)`` or ``(batch, 1, ..., 1)``)
    and x, and return a tensor of x's shape. What the network predicts is handed through untouched; the others
    are finite where alpha and sigma are positive, so at t > 0 (a score that is predicted may be finite at t =
    0 too).

    Raises
    ------
    ValueError : an unknown prediction; a network whose output is not of x's shape.
    TypeError : net cannot be called, or process is not a Process.

    References
    ----------
    Salimans & Ho (2022). Progressive distillation for fast sampling of diffusion models. ICLR. Section 4 and
    appendix D, for the velocity.
    """

    def __init__(self, net: Callable[[Tensor, Tensor], Tensor], process: Process, prediction: str = "noise") -> None:
        super().__init__()
        if not callable(net):
            raise TypeError(message("net", type(net).__name__, "a module or function net(t, x) -> tensor"))
        if not isinstance(process, Process):
            raise TypeError(message("process", repr(process), "a diffusion.Process, such as diffusion.VP()"))
        if prediction not in PREDICTIONS:
            raise ValueError(message("prediction", repr(prediction), " or ".join(map(repr, PREDICTIONS))))
        self.net, self.process, self.prediction = net, process, PREDICTIONS[prediction]

    def forward(self, t: Tensor | float, x: Tensor) -> Tensor:
        """What the network predicts; t reaches it as ``(batch,)``."""
        clock = broadcast_time(t, x).reshape(-1).expand(x.shape[0])
        out = self.net(clock, x)
        if out.shape != x.shape:
            got = f"a prediction of shape {tuple(out.shape)}"
            raise ValueError(message("net", got, f"x's shape {tuple(x.shape)}"))
        return out

    def data(self, t: Tensor | float, x: Tensor) -> Tensor:
        """E[x_0 | x_t = x]."""
        return self._data_and_noise(t, x)[0]

    def noise(self, t: Tensor | float, x: Tensor) -> Tensor:
        """E[eps | x_t = x]."""
        return self._data_and_noise(t, x)[1]

    def velocity(self, t: Tensor | float, x: Tensor) -> Tensor:
        """alpha noise - sigma data."""
        if self.prediction == "velocity":
            return self(t, x)
        alpha, sigma = self._scales(t, x)
        data, noise = self._data_and_noise(t, x)
        return alpha * noise - sigma * data

    def score(self, t: Tensor | float, x: Tensor) -> Tensor:
        """grad_x log p_t(x) = -noise / sigma."""
        if self.prediction == "score":
            return self(t, x)
        return -self._data_and_noise(t, x)[1] / self._scales(t, x)[1]

    def _scales(self, t: Tensor | float, x: Tensor) -> tuple[Tensor, Tensor]:
        t = broadcast_time(t, x)
        return self.process.alpha(t), self.process.sigma(t)

    def _data_and_noise(self, t: Tensor | float, x: Tensor) -> tuple[Tensor, Tensor]:
        """The one place where a prediction turns into another: x - shift = alpha data + sigma noise, solved."""
        alpha, sigma = self._scales(t, x)
        out, x = self(t, x), self.process.centred(t, x)
        if self.prediction == "data":
            return out, (x - alpha * out) / sigma
        if self.prediction == "velocity":
            total = alpha**2 + sigma**2
            return (alpha * x - sigma * out) / total, (sigma * x + alpha * out) / total
        noise = out if self.prediction == "noise" else -sigma * out
        return (x - sigma * noise) / alpha, noise

    def extra_repr(self) -> str:
        return f"process={self.process}, prediction={self.prediction!r}"
