"""Losses whose least value the exact denoiser has: denoising, and score matching in its other forms."""

from .denoising import TIMES, WEIGHTINGS, DenoisingLoss, Loss
from .score_matching import ExplicitLoss, ImplicitLoss, SlicedLoss

__all__ = ["TIMES", "WEIGHTINGS", "DenoisingLoss", "ExplicitLoss", "ImplicitLoss", "Loss", "SlicedLoss"]
