"""Philox4x32-10 and the counter layout in plain Python integers, written from the paper: the oracle."""

import math


def philox(counter: tuple[int, ...], key: tuple[int, ...]) -> tuple[int, ...]:
    """The bijection of Salmon et al. (2011), section 3.3, one 64-bit product at a time."""
    (x0, x1, x2, x3), (k0, k1) = counter, key
    for _ in range(10):
        high_a, low_a = divmod(0xD2511F53 * x0, 2**32)
        high_b, low_b = divmod(0xCD9E8D57 * x2, 2**32)
        x0, x1, x2, x3 = high_b ^ x1 ^ k0, low_b, high_a ^ x3 ^ k1, low_a
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return x0, x1, x2, x3


def normal_of_cell(seed: int, path: int, channel: int, cell: int, stream: int = 0) -> float:
    """Standard normal of a whole cell to double precision, by the documented layout."""
    return _normals(seed, path, (cell // 4) % 2**32, channel, stream, 0)[cell % 4]


def normal_off_grid(seed: int, path: int, channel: int, cell: int, tick: int) -> float:
    """Standard normal of an off-grid step to double precision, by the documented layout."""
    return _normals(seed, path, cell % 2**32, channel, 4, tick)[0]


def _normals(seed: int, c0: int, c1: int, channel: int, stream: int, c3: int) -> list[float]:
    key = seed % 2**32, seed // 2**32
    words = philox((c0, c1, channel + stream * 2**24, c3), key)
    finer = philox((c0, c1, channel + (stream + 128) * 2**24, c3), key)
    u = [(2 * (w * 2**32 + f) + 1) / 2**65 for w, f in zip(words, finer, strict=True)]
    pairs = [(math.sqrt(-2 * math.log(a)), 2 * math.pi * b) for a, b in (u[:2], u[2:])]
    return [z for r, phi in pairs for z in (r * math.cos(phi), r * math.sin(phi))]
