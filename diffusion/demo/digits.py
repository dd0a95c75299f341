"""The handwritten digits that ship with scikit-learn: 1,797 images of 8x8 pixels with 17 grey levels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..quantise import dequantise

__all__ = ["HELD_OUT", "LEVELS", "Digits", "dequantised", "load_digits"]

LEVELS = 17
HELD_OUT = 360


@dataclass(frozen=True)
class Digits:
    """Levels 0 .. 16 as uint8 images ``(n, 1, 8, 8)``: 1,437 to train on and 360 held out."""

    train: Tensor
    held_out: Tensor


def load_digits() -> Digits:
    """The images in a fixed split with equal shares of every digit; it does not depend on any seed of the
    user."""
    from sklearn import datasets
    from sklearn.model_selection import train_test_split

    found = datasets.load_digits()
    images = found.images[:, None].astype("uint8")
    train, held_out = train_test_split(images, test_size=HELD_OUT, stratify=found.target, random_state=0)
    return Digits(torch.from_numpy(train), torch.from_numpy(held_out))


def dequantised(
    k: Tensor,
    seed: int | None = None,
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Levels as continuous images in [-1, 1], with fresh uniform noise below the levels."""
    return dequantise(k, LEVELS, (-1.0, 1.0), seed=seed, generator=generator, dtype=dtype)
