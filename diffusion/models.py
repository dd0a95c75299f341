"""The model of the command line: a preconditioned convolutional denoiser, and how to get it back from a
checkpoint."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from sdesolve.errors import message

from .checkpoint import CheckpointError, load_checkpoint, load_into, under_prefix
from .denoiser import Denoiser
from .exact import Gaussian
from .network import GaussianPreconditioned, ImageNet
from .processes import VP

__all__ = ["ModelConfig", "build_denoiser", "load_denoiser"]


@dataclass(frozen=True)
class ModelConfig:
    """What determines the model besides its weights; kept in the checkpoint under ``"model"``."""

    levels: int = 17
    channels: int = 1
    height: int = 8
    width: int = 8
    features: int = 48
    depth: int = 4
    dropout: float = 0.1


def build_denoiser(config: ModelConfig, gaussian: Gaussian) -> Denoiser:
    """An untrained denoiser: that of the Gaussian."""
    process = VP()
    net = ImageNet(
        config.channels,
        (config.height, config.width),
        inputs=2 * config.channels,
        width=config.features,
        depth=config.depth,
        dropout=config.dropout,
    )
    return Denoiser(GaussianPreconditioned(net, process, gaussian), process, prediction="noise")


def load_denoiser(path: str | os.PathLike[str]) -> tuple[Denoiser, ModelConfig]:
    """The denoiser with averaged weights in a checkpoint of :func:`diffusion.fit`, in evaluation mode.

    Raises
    ------
    FileNotFoundError, CheckpointError : no such file; not a checkpoint of this model.
    """
    tensors, facts = load_checkpoint(path)
    try:
        config = ModelConfig(**facts["model"])
    except (KeyError, TypeError) as error:
        accepted = "a checkpoint of `python -m diffusion demo` or `train`"
        raise CheckpointError(message("checkpoint", f"{path} without a model to build", accepted)) from error
    shape = (config.channels, config.height, config.width)
    dims = config.channels * config.height * config.width
    denoiser = build_denoiser(config, Gaussian(torch.zeros(shape), torch.eye(dims)))
    load_into(denoiser, under_prefix("average", tensors), path)
    return denoiser.eval().requires_grad_(False), config
