"""Philox4x32-10: a counter-based random generator in plain tensor arithmetic.

A counter-based generator is a function, not a stream: it maps a 128-bit counter and a 64-bit key to 128
random bits. Whoever knows the name (counter and key) of a random number can compute it, in any order, on any
device.
"""

from math import prod
from typing import Any

import numpy as np
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
    words = (c0, c1, c2, c3, k0, k1)
    if all(map(is_plain, words)):
        return _in_place(*words)
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


def is_plain(x: Tensor) -> bool:
    """Whether NumPy may look at the numbers: not while code is compiled, nor under a torch.func transform."""
    if torch.compiler.is_compiling() or type(x) is not Tensor or x.device.type != "cpu":
        return False
    return not torch._C._functorch.is_functorch_wrapped_tensor(x)


def _in_place(
    c0: Tensor, c1: Tensor, c2: Tensor, c3: Tensor, k0: Tensor, k1: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same for eager draws on the CPU, in NumPy's or in torch's operations.

    NumPy's calls take a third of the time of torch's and its unsigned products half, but on one thread; so torch does
    what is large enough to be shared among several. Words that vary along few dimensions become wider from round to
    round; once all are of the common shape, a round writes into what the one before has done with.
    """
    words: list[Any] = [x.detach() for x in (c0, c1, c2, c3, k0, k1)]
    shape = np.broadcast_shapes(*(x.shape for x in words))
    module: Any = torch
    number: Any = torch.tensor
    if not shared_among_threads(prod(shape)):
        words = [x.numpy().view(np.uint64) for x in words]
        module, number = np, np.uint64
    a0, a1, a2, a3, j0, j1 = words
    shift, mask, factors = number(32), number(WORD), (number(_MULTIPLIER_0), number(_MULTIPLIER_1))
    fresh = None
    for k in range(_ROUNDS):
        keys = (j0 + number(k * _WEYL_0)) & mask, (j1 + number(k * _WEYL_1)) & mask
        if k and shape and a0.shape == a1.shape == a2.shape == a3.shape == shape:
            products = fresh or (module.empty_like(a0), module.empty_like(a0))
            module.multiply(a0, factors[0], out=products[0])
            module.multiply(a2, factors[1], out=products[1])
            for product, word, key, out in ((products[1], a1, keys[0], a0), (products[0], a3, keys[1], a2)):
                module.bitwise_right_shift(product, shift, out=out)
                module.bitwise_xor(out, word, out=out)
                module.bitwise_xor(out, key, out=out)
                module.bitwise_and(out, mask, out=out)
            fresh = a3, a1
        else:
            products = a0 * factors[0], a2 * factors[1]
            a0 = _joined((products[1] >> shift) & mask, a1 & mask, keys[0])
            a2 = _joined((products[0] >> shift) & mask, a3 & mask, keys[1])
        a3, a1 = products
    out = a0, a1 & mask, a2, a3 & mask
    if module is np:
        out = tuple(torch.from_numpy(np.asarray(x).reshape(shape).view(np.int64)) for x in out)
    w0, w1, w2, w3 = out
    return w0, w1, w2, w3


def shared_among_threads(count: int) -> bool:
    """Whether torch's operations on so many elements are worth more than one thread."""
    return torch.get_num_threads() > 1 and count >= 3 * 2**14


def _joined(a: Any, b: Any, key: Any) -> Any:
    """a ^ b ^ key, with the key on the one that varies along fewer dimensions."""
    small, large = (a, b) if prod(a.shape) < prod(b.shape) else (b, a)
    return (small ^ key) ^ large
