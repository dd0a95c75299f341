"""Networks for small images and for vectors, and the Gaussian that a network improves on.

- `ImageNet`: a residual convolutional network, time-conditioned, for images as small as 8x8
- `MLP`: dense layers, for data that are vectors
- `FourierMLP`: residual dense layers on sines and cosines, for few dimensions and fine detail
- `VectorNet`: residual dense layers with time-dependent scales, for vectors of many components
- `GaussianPreconditioned`: a network added to the exact denoiser of a Gaussian
- `Rescaled`: a network that sees states of order 1 and a time of order 1, whatever the process
"""

from .images import ImageNet
from .preconditioned import GaussianPreconditioned, Rescaled
from .vectors import MLP, FourierMLP, VectorNet

__all__ = ["MLP", "FourierMLP", "GaussianPreconditioned", "ImageNet", "Rescaled", "VectorNet"]
