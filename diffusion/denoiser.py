"""Learned networks as denoisers: one prediction, seen as any other (`diffusion.prediction`), or its gradient."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from sdesolve.errors import message

from .prediction import ENERGIES, PREDICTIONS, PreconditionedPrediction, Preconditioning, Prediction
from .process import Process, broadcast_time

__all__ = ["Denoiser"]

NAMES = {**{name: name for name in PREDICTIONS}, "epsilon": "noise", "sample": "data", "v_prediction": "velocity"}
"""Accepted names, and the one that this package uses."""


class Denoiser(nn.Module):
    """A network and what it predicts.

    Parameters
    ----------
    net : ``net(t, x) -> prediction`` of x's shape, for t of shape ``(batch,)`` and x of shape ``(batch,
        *state)``. A module is registered.
    process : the forward process that turned data into x_t.
    prediction : what the network returns.

        - ``"noise"`` (``"epsilon"``), the default: E[eps];
        - ``"data"`` (``"sample"``): E[x_0];
        - ``"velocity"`` (``"v_prediction"``): alpha noise - sigma data;
        - ``"score"``: grad_x log p_t(x);
        - ``"flow"``: alpha' data + sigma' noise + shift', the velocity of flow matching; for `RectifiedFlow`
          noise - data;
        - ``"edm"``: the remainder between the scalings of Karras et al. (2022); the network is called with log(sigma /
          alpha) / 4 in place of t, and with x of variance 1: see :class:`diffusion.prediction.Preconditioning`;
        - ``"energy"``: E(t, x) = -log p_t(x) + a constant, one number a trajectory, ``(batch,)``. The score is
          -grad_x E by `torch.func`, so it is a gradient field, which other predictions of a network are not;
        - ``"scaled_energy"``: sigma E, of the same shape. Its gradient is the noise, of variance 1 at every t, where
          that of E grows like 1 / sigma: what a network learns more easily.
    sigma_data : standard deviation of the data, for ``"edm"``; default 0.5.

    Methods ``score``, ``data``, ``noise``, ``velocity``, ``flow`` take t (0-d, ``(batch,)`` or ``(batch, 1, ..., 1)``)
    and x, and return a tensor of x's shape; ``predict`` gives all of them from one call of the network. What the
    network predicts is handed through untouched; the others are finite where alpha and sigma are positive. Where alpha
    is 0 (the end of `RectifiedFlow`) they are finite for ``"data"``, ``"velocity"``, ``"flow"`` and ``"edm"``.
    Of energies there is ``energy`` besides; it takes the network alone, where all others take its gradient by x, too.

    Raises
    ------
    ValueError : an unknown prediction; sigma_data not positive; a network whose output is not of x's shape, or not one
        energy a trajectory.
    TypeError : net cannot be called, or returns no tensor; process is not a Process.

    References
    ----------
    Salimans & Ho (2022). Progressive distillation for fast sampling of diffusion models. ICLR. Section 4 and
    appendix D, for the velocity.
    Salimans & Ho (2021). Should EBMs model the energy or the score? ICLR workshop on energy-based models. For energies
    that are learned by denoising.
    """

    def __init__(
        self,
        net: Callable[[Tensor, Tensor], Tensor],
        process: Process,
        prediction: str = "noise",
        *,
        sigma_data: float = 0.5,
    ) -> None:
        super().__init__()
        if not callable(net):
            raise TypeError(message("net", type(net).__name__, "a module or function net(t, x) -> tensor"))
        if not isinstance(process, Process):
            raise TypeError(message("process", repr(process), "a diffusion.Process, such as diffusion.VP()"))
        if prediction not in NAMES:
            raise ValueError(message("prediction", repr(prediction), " or ".join(map(repr, NAMES))))
        if not (math.isfinite(sigma_data) and sigma_data > 0):
            raise ValueError(message("sigma_data", repr(sigma_data), "a positive, finite standard deviation"))
        self.net, self.process, self.prediction, self.sigma_data = net, process, NAMES[prediction], sigma_data

    def forward(self, t: Tensor | float, x: Tensor) -> Tensor:
        """What the network predicts (with ``"edm"``, the data; of energies the score, or for scaled ones the noise); t
        reaches it as ``(batch,)``."""
        if self.prediction == "edm":
            return self.predict(t, x).data
        t = broadcast_time(t, x)
        if self.prediction in ENERGIES:
            slope: Tensor = torch.func.grad(lambda x: self._said(t, x).sum())(x)
            return slope if self.prediction == "scaled_energy" else -slope
        return self._said(t, x)

    def output(self, t: Tensor | float, x: Tensor) -> Tensor:
        """What a loss compares with its target: what the network predicts, with ``"edm"`` between its scalings."""
        if self.prediction != "edm":
            return self(t, x)
        scales = Preconditioning(self.process, self.sigma_data, broadcast_time(t, x), x)
        return self._said(scales.clock, scales.input)

    def predict(self, t: Tensor | float, x: Tensor) -> Prediction:
        """All quantities at (t, x), from one call of the network."""
        if self.prediction != "edm":
            return PREDICTIONS[self.prediction](self.process, t, x, self(t, x))
        t = broadcast_time(t, x)
        scales = Preconditioning(self.process, self.sigma_data, t, x)
        out = self._said(scales.clock, scales.input)
        return PreconditionedPrediction(scales, self.process, t, x, out)

    @property
    def flow_end(self) -> float:
        """The last time at which the flow is finite: the process's end, or where its rates end, by the prediction."""
        whole = PREDICTIONS[self.prediction].flows_without_data
        return self.process.end if whole else self.process.rates_end

    def data(self, t: Tensor | float, x: Tensor) -> Tensor:
        """E[x_0 | x_t = x]."""
        return self.predict(t, x).data

    def noise(self, t: Tensor | float, x: Tensor) -> Tensor:
        """E[eps | x_t = x]."""
        return self.predict(t, x).noise

    def velocity(self, t: Tensor | float, x: Tensor) -> Tensor:
        """alpha noise - sigma data."""
        return self.predict(t, x).velocity

    def score(self, t: Tensor | float, x: Tensor) -> Tensor:
        """grad_x log p_t(x) = -noise / sigma."""
        return self.predict(t, x).score

    def flow(self, t: Tensor | float, x: Tensor) -> Tensor:
        """alpha' data + sigma' noise + shift', the right-hand side of the probability flow."""
        return self.predict(t, x).flow

    def energy(self, t: Tensor | float, x: Tensor) -> Tensor:
        """E(t, x) = -log p_t(x) + a constant that may depend on t, ``(batch,)``; for predictions of energies."""
        if self.prediction not in ENERGIES:
            raise ValueError(message("prediction", repr(self.prediction), " or ".join(map(repr, ENERGIES))))
        t = broadcast_time(t, x)
        said = self._said(t, x)
        return said if self.prediction == "energy" else said / self.process.sigma(t.reshape(-1))

    def _said(self, clock: Tensor, x: Tensor) -> Tensor:
        if x.ndim == 0:
            raise ValueError(message("x", "a single number", "(batch, *state)"))
        out = self.net(clock.reshape(-1).expand(x.shape[0]), x)
        if not isinstance(out, Tensor):
            advice = "Wrap the network in a function that takes the tensor out of what it returns."
            raise TypeError(message("net", f"a prediction of type {type(out).__name__}", "a tensor", advice))
        energy = self.prediction in ENERGIES
        if out.shape != (x.shape[:1] if energy else x.shape):
            accepted = f"({x.shape[0]},), one energy a trajectory" if energy else f"x's shape {tuple(x.shape)}"
            raise ValueError(message("net", f"a prediction of shape {tuple(out.shape)}", accepted))
        return out

    def extra_repr(self) -> str:
        return f"process={self.process}, prediction={self.prediction!r}"
