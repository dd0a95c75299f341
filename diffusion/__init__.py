"""Diffusion models on top of sdesolve: equations built from learned scores, handed to the same solver.

process = diffusion.VP()
denoiser = diffusion.Denoiser(net, process, prediction="noise")
x = diffusion.sample(denoiser, (64, 1, 8, 8), seed=0)
ll = diffusion.log_likelihood(denoiser, x, trace="hutchinson", probes=4)
"""

from . import exact, grid, network, toys
from .affine import Affine
from .checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from .denoiser import Denoiser
from .fit import Fit, TrainingInterrupted, fit
from .likelihood import LogLikelihood, log_likelihood
from .loss import DenoisingLoss
from .prior import NormalPrior
from .process import Process, broadcast_time
from .processes import EDM, VE, VP, Cosine, RectifiedFlow, SubVP, VariancePreserving
from .quantise import bits_per_dimension, dequantise, quantise
from .reverse import probability_flow, reverse_sde
from .sample import sample

__all__ = [
    "EDM",
    "VE",
    "VP",
    "Affine",
    "CheckpointError",
    "Cosine",
    "Denoiser",
    "DenoisingLoss",
    "Fit",
    "LogLikelihood",
    "NormalPrior",
    "Process",
    "RectifiedFlow",
    "SubVP",
    "TrainingInterrupted",
    "VariancePreserving",
    "bits_per_dimension",
    "broadcast_time",
    "dequantise",
    "exact",
    "fit",
    "grid",
    "load_checkpoint",
    "log_likelihood",
    "network",
    "probability_flow",
    "quantise",
    "reverse_sde",
    "sample",
    "save_checkpoint",
    "toys",
]
