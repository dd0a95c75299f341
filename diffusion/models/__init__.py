"""Models of the command line: a network and all that it takes to use it, in one file."""

from .model import ModelConfig, build_denoiser, load_denoiser

__all__ = ["ModelConfig", "build_denoiser", "load_denoiser"]
