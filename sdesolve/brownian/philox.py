"""Philox4x32-10: a counter-based random generator in plain tensor arithmetic.

A counter-based generator is a function, not a stream: it maps a 128-bit counter and a 64-bit key to 128
random bits. Whoever knows the name (counter and key) of a random number can compute it, in any order, on any
device.
"""

import torch
from torch import Tensor

WORD = 0xFFFFFFFF
"""Mask of the low 32 bits of an int64."""

_MULTIPLIER_0, _MULTIPLIER_1 = 0xD2511F53, 0xCD9E8D57
_WEYL_0, _WEYL_1 = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10


def philox4x32(
    c0: Tensor, c1: Tensor, c2: Tensor, c3: Tensor, k0: Tensor, k1: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four random 32-bit words for each counter and key.

    One of the ten rounds, with `hi` and `lo` the halves of a 64-bit product::

        c0, c1, c2, c3 = hi(c2 * 0xCD9E8D57) ^ c1 ^ k0,  lo(c2 * 0xCD9E8D57),
                         hi(c0 * 0xD2511F53) ^ c3 ^ k1,  lo(c0 * 0xD2511F53)
        k0, k1 = k0 + 0x9E3779B9, k1 + 0xBB67AE85          (modulo 2^32)

    Parameters
    ----------
    c0, c1, c2, c3
        Counter words, int64 in [0, 2^32), of any shapes that broadcast together. Words that vary along few
        dimensions are best left unexpanded: the first rounds then work on small tensors.
    k0, k1
        Key words, int64 in [0, 2^32); usually 0-d. They broadcast with the counter.

    Returns
    -------
    Four int64 tensors with values in [0, 2^32), of the common shape.

    References
    ----------
    Salmon, Moraes, Dror, Shaw (2011). Parallel random numbers: as easy as 1, 2, 3. SC '11.
    """
    # A product of two 32-bit words can exceed 2^63 and wrap to a negative int64, but its bits are those of
    # the unsigned product: the low half is right as it stands, and the arithmetic shift fills the bits above
    # the high half with copies of the sign, which the mask removes. Low halves are only XORed into something
    # that is masked later, so they need a mask of their own only at the very end.
    for _ in range(_ROUNDS):
        product_0, product_1 = c0 * _MULTIPLIER_0, c2 * _MULTIPLIER_1
        c0 = ((product_1 >> 32) ^ c1 ^ k0).bitwise_and_(WORD)
        c2 = ((product_0 >> 32) ^ c3 ^ k1).bitwise_and_(WORD)
        c1, c3 = product_1, product_0
        k0, k1 = (k0 + _WEYL_0) & WORD, (k1 + _WEYL_1) & WORD
    c0, c1, c2, c3 = torch.broadcast_tensors(c0, c1 & WORD, c2, c3 & WORD)
    return c0, c1, c2, c3
