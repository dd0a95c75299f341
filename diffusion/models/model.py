"""The models of the command line: what determines one besides its weights, and how to get it back from a
checkpoint."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sdesolve.errors import message

from ..checkpoint import CheckpointError, load_checkpoint, load_into, under_prefix
from ..denoiser import Denoiser
from ..exact import Gaussian
from ..network import GaussianPreconditioned, ImageNet, Rescaled, VectorNet
from ..process import Process
from .named import named_process
from .scaling import Scaling

__all__ = ["ModelConfig", "build_denoiser", "gaussian_of", "load_denoiser"]

#: components up to which their covariance is worth its cost
COMPONENTS = 1024
#: examples a component from which their covariance is taken as it is
ENOUGH = 10
#: no direction has a smaller share of the mean variance, so that the network has a say in all of them
LEAST_SHARE = 1e-4


@dataclass(frozen=True)
class ModelConfig:
    """What determines the model besides its weights; kept in the checkpoint under ``"model"``.

    shape : of one example, ``(d,)`` for vectors and ``(c, h, w)`` for images.
    scaling : between data and model.
    process : its name and parameters, see `diffusion.named`.
    prediction : what the network predicts, see :class:`diffusion.Denoiser`.
    gaussian : whether the network corrects the exact denoiser of a Gaussian
        (:class:`diffusion.network.GaussianPreconditioned`); else it predicts by itself.
    width, depth, dropout : of the network: dense layers for vectors (no dropout), convolutions for images.
    sigma_data : standard deviation of the data, for the prediction ``"edm"``.
    t_min, t_max : the span of times trained for; None: 1e-5 and the process's end.
    """

    shape: tuple[int, ...] = (1, 8, 8)
    scaling: Scaling = field(default_factory=lambda: Scaling(17))
    process: str = "vp"
    prediction: str = "noise"
    gaussian: bool = True
    width: int = 48
    depth: int = 4
    dropout: float = 0.1
    sigma_data: float = 0.5
    t_min: float | None = None
    t_max: float | None = None

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> ModelConfig:
        """The inverse of ``dataclasses.asdict``, after a way through JSON."""
        values = {**facts, "shape": tuple(facts["shape"]), "scaling": Scaling.from_json(facts["scaling"])}
        found = cls(**values)
        found._check()
        return found

    def _check(self) -> None:
        whole = {"width": self.width, "depth": self.depth, **{f"shape[{i}]": n for i, n in enumerate(self.shape)}}
        for name, count in whole.items():
            if type(count) is not int or count < 1:
                raise ValueError(message(name, repr(count), "a positive integer"))
        if len(self.shape) not in (1, 3):
            raise ValueError(message("shape", repr(self.shape), "(d,) or (c, h, w)"))
        if not isinstance(self.gaussian, bool):
            raise ValueError(message("gaussian", repr(self.gaussian), "True or False"))
        for name in ("process", "prediction"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(message(name, repr(getattr(self, name)), "a name"))
        for name, value in {"dropout": self.dropout, "sigma_data": self.sigma_data}.items():
            if not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(message(name, repr(value), "a finite number"))
        for name, time in {"t_min": self.t_min, "t_max": self.t_max}.items():
            if time is not None and not (isinstance(time, int | float) and 0 < time < math.inf):
                raise ValueError(message(name, repr(time), "a positive time, or None"))
        if self.scaling.levels is None and not {len(self.scaling.shift), len(self.scaling.scale)} <= {1, self.dims}:
            got = f"{len(self.scaling.shift)} shifts and {len(self.scaling.scale)} scales"
            raise ValueError(message("scaling", got, f"one, or {self.dims}, of each"))

    @property
    def dims(self) -> int:
        """Components of an example."""
        return torch.Size(self.shape).numel()


def build_denoiser(config: ModelConfig, gaussian: Gaussian | None = None) -> Denoiser:
    """An untrained denoiser; with a Gaussian, that of the Gaussian."""
    process = named_process(config.process)
    net = _network(config)
    if config.gaussian:
        if gaussian is None:
            gaussian = Gaussian(torch.zeros(config.shape), torch.eye(config.dims))
        net = GaussianPreconditioned(net, process, gaussian, config.prediction)
    elif config.prediction != "edm":
        net = Rescaled(net, process)
    return Denoiser(net, process, config.prediction, sigma_data=config.sigma_data)


def _network(config: ModelConfig) -> nn.Module:
    seen = 2 if config.gaussian else 1
    if len(config.shape) == 1:
        size = config.shape[0]
        return VectorNet(size, inputs=seen * size, width=config.width, depth=config.depth)
    channels, height, width = config.shape
    return ImageNet(
        channels,
        (height, width),
        inputs=seen * channels,
        width=config.width,
        depth=config.depth,
        dropout=config.dropout,
    )


def gaussian_of(x: Tensor, noise: float = 0.0) -> Gaussian:
    """The Gaussian of mean and covariance of x, ``(n, *state)``, in float64, with `noise` added to all variances.

    Fewer than `ENOUGH` examples a component leave directions in which they vary less than new ones will; there the
    covariance is drawn towards its mean variance by :func:`shrinkage`. No variance is below `LEAST_SHARE` of the mean.
    """
    found = Gaussian.fit(x.double())
    mean = found.variances.mean()
    if len(x) < ENOUGH * found.variances.numel():
        found.variances.lerp_(mean, shrinkage(x.double().flatten(1)))
    found.variances.clamp_(min=LEAST_SHARE * float(mean))
    found.variances += noise
    return found


def shrinkage(x: Tensor) -> float:
    """How far the covariance S of x, ``(n, d)``, is to be drawn towards mu I, mu its mean variance, to come closest to
    the true one in expectation: b^2 / d^2, at most 1, with d^2 = |S - mu I|^2 and b^2 = sum_k |x_k x_k^T - S|^2 / n^2.

    References
    ----------
    Ledoit & Wolf (2004). A well-conditioned estimator for large-dimensional covariance matrices. Journal of
    Multivariate Analysis 88, 365-411. Section 3.3.
    """
    n, dims = x.shape
    x = x - x.mean(0)
    covariance = x.T @ x / n
    size = covariance.square().sum()
    distance = size - covariance.trace() ** 2 / dims
    error = (x.square().sum(1).square().mean() - size) / n
    return float((error / distance).clamp(0, 1)) if float(distance) > 0 else 1.0


def span_of_times(process: Process, least: float = 1e-3) -> tuple[float, float]:
    """From where the noise is `least` of the data, to where the rates of the reverse SDE are finite."""
    log_snr = -2 * torch.log(torch.tensor(least, dtype=torch.float64))
    return float(process.time_of_log_snr(log_snr)), process.rates_end


def load_denoiser(path: str | os.PathLike[str]) -> tuple[Denoiser, ModelConfig]:
    """The denoiser with averaged weights in a checkpoint of :func:`diffusion.fit`, in evaluation mode.

    Raises
    ------
    FileNotFoundError, CheckpointError : no such file; not a checkpoint of a model of the command line.
    """
    tensors, facts = load_checkpoint(path)
    config = config_of(facts, path)
    try:
        denoiser = build_denoiser(config)
    except (ValueError, RuntimeError) as error:
        got, accepted = f"{path} of a model that cannot be built ({error})", "one that `demo` or `train` wrote"
        raise CheckpointError(message("checkpoint", got, accepted)) from error
    load_into(denoiser, under_prefix("average", tensors), path)
    return denoiser.eval().requires_grad_(False), config


def config_of(facts: Mapping[str, Any], path: object) -> ModelConfig:
    """The model that a checkpoint's facts describe.

    Raises
    ------
    CheckpointError : they describe none.
    """
    try:
        return ModelConfig.from_json(facts["model"])
    except (KeyError, TypeError, ValueError) as error:
        accepted = "a checkpoint of `python -m diffusion demo` or `train`"
        why = "" if isinstance(error, KeyError | TypeError) else f" ({error})"
        raise CheckpointError(message("checkpoint", f"{path} without a model to build{why}", accepted)) from error
