"""Discrete chains of noise: DDPM's and NCSN's."""

from .chain import Chain
from .known import DDPMChain, NCSNChain

__all__ = ["Chain", "DDPMChain", "NCSNChain"]
