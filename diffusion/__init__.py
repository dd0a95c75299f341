"""Diffusion models on top of sdesolve: equations built from learned scores, handed to the same solver.

process = diffusion.VP()
denoiser = diffusion.Denoiser(net, process, prediction="noise")
x = diffusion.sample(denoiser, (64, 1, 8, 8), seed=0)
ll = diffusion.log_likelihood(denoiser, x, trace="hutchinson", probes=4)
"""

from . import exact, grid, kernels, network, toys
from .ancestral import Ancestral
from .chains import DDPMChain, NCSNChain
from .checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from .denoiser import Denoiser
from .elbo import ELBO, elbo
from .fit import Fit, TrainingInterrupted, fit
from .langevin import annealed_langevin, langevin, underdamped_langevin
from .likelihood import LogLikelihood, log_likelihood
from .loss import DenoisingLoss, ExplicitLoss, ImplicitLoss, SlicedLoss
from .models import load_denoiser
from .prior import NormalPrior
from .process import Process, broadcast_time
from .processes import EDM, VE, VP, Affine, Cosine, RectifiedFlow, SubVP, VariancePreserving
from .quantise import bits_per_dimension, dequantise, quantise
from .reverse import probability_flow, reverse_sde
from .sample import sample

__all__ = [
    "EDM",
    "ELBO",
    "VE",
    "VP",
    "Affine",
    "Ancestral",
    "CheckpointError",
    "Cosine",
    "DDPMChain",
    "Denoiser",
    "DenoisingLoss",
    "ExplicitLoss",
    "Fit",
    "ImplicitLoss",
    "LogLikelihood",
    "NCSNChain",
    "NormalPrior",
    "Process",
    "RectifiedFlow",
    "SlicedLoss",
    "SubVP",
    "TrainingInterrupted",
    "VariancePreserving",
    "annealed_langevin",
    "bits_per_dimension",
    "broadcast_time",
    "dequantise",
    "elbo",
    "exact",
    "fit",
    "grid",
    "kernels",
    "langevin",
    "load_checkpoint",
    "load_denoiser",
    "log_likelihood",
    "network",
    "probability_flow",
    "quantise",
    "reverse_sde",
    "sample",
    "save_checkpoint",
    "toys",
    "underdamped_langevin",
]
