"""Do two sets of samples come from one distribution? The leave-one-out nearest-neighbour test."""

from __future__ import annotations

import torch
from torch import Tensor

from sdesolve.errors import message

__all__ = ["nearest_neighbour_accuracy"]


def nearest_neighbour_accuracy(a: Tensor, b: Tensor) -> float:
    """How often the nearest neighbour of a point, among all others, is of the point's own set.

    0.5 for samples of one distribution (in the limit of many), 1 for sets that lie apart, below 0.5 for sets
    of which one copies the other.

    Parameters
    ----------
    a, b : ``(n, *state)``, of one shape; distances are Euclidean.

    References
    ----------
    Lopez-Paz & Oquab (2017). Revisiting classifier two-sample tests. ICLR.
    Xu et al. (2018). An empirical study on evaluation metrics of generative adversarial networks. Section
    2.3.
    """
    if a.shape != b.shape or a.ndim < 2 or len(a) < 2:
        got = f"shapes {tuple(a.shape)} and {tuple(b.shape)}"
        raise ValueError(message("a, b", got, "one shape (n, *state) with n >= 2"))
    points = torch.cat([a, b]).flatten(1).to(torch.float64)
    squares = (points**2).sum(1)
    distances = squares[:, None] + squares - 2 * points @ points.T
    nearest = distances.fill_diagonal_(torch.inf).argmin(1)
    first = torch.arange(len(points)) < len(a)
    return float((first == first[nearest.cpu()]).double().mean())
