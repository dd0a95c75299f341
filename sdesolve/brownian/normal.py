"""From random 32-bit words to uniform and normal random numbers."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def uniform(word: Tensor, finer: Tensor | None = None) -> Tensor:
    """Uniform random numbers in (0, 1] from 32-bit words.

    ::

        float32:  u = (w + 1/2) 2^-32                        rounded once to float32
        float64:  u = w 2^-32 + (w' + 1/2) 2^-64             rounded once to float64

    with w the `word` and w' the `finer` word. The half keeps u away from zero (u >= 2^-33, or 2^-65), so that
    log(u) is finite; the largest words round to u = 1, where log(u) is zero.

    Parameters
    ----------
    word
        int64 in [0, 2^32), any shape.
    finer
        Further 32 bits for each word, same shape; given, the result is float64, else float32.
    """
    if finer is None:
        # 2w + 1 is an exact integer, so that the conversion is the only rounding.
        return (word << 1).bitwise_or_(1).to(torch.float32).mul_(2.0**-33)
    return word.to(torch.float64) * 2.0**-32 + (finer.to(torch.float64) + 0.5) * 2.0**-64


def box_muller(radius: Tensor, angle: Tensor, out: Sequence[Tensor] = ()) -> tuple[Tensor, ...]:
    """Two independent standard normals from two independent uniforms in (0, 1]; or as many as there are tensors in
    ``out``, into which they are then written.

    ::

        z0 = sqrt(-2 log u) cos(2 pi v),   z1 = sqrt(-2 log u) sin(2 pi v),   u = radius, v = angle

    References
    ----------
    Box, Muller (1958). A note on the generation of random normal deviates. Ann. Math. Statist. 29, 610-611.
    """
    r = torch.log(radius).mul_(-2.0).sqrt_()
    phi = angle * (2.0 * math.pi)
    if not out:
        return r * torch.cos(phi), r * torch.sin(phi)
    return tuple(torch.mul(r, wave(phi), out=z) for wave, z in zip((torch.cos, torch.sin), out, strict=False))
