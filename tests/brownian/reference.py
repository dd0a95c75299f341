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


# ---- the path between boundaries of cells

Triple = tuple[float, float, float]
"""Of an interval, standardised: W, H and K in units of their standard deviations. As integrals: W and the integrals of
W(u) and u W(u) over it, with W and u counted from its start."""


def cell_triple(seed: int, path: int, channel: int, cell: int) -> Triple:
    w, h, k = (normal_of_cell(seed, path, channel, cell, stream) for stream in (0, 1, 2))
    return w, h, k


def halves(whole: Triple, noise: Triple) -> tuple[Triple, Triple]:
    """Of the left and of the right half of an interval, as `sdesolve.brownian.bridge` documents it."""
    (w, h, k), (n0, n1, n2) = whole, noise
    found = []
    for s in (1, -1):
        found.append(
            (
                (w + s * (math.sqrt(3) / 2 * h + n0 / 2)) / math.sqrt(2),
                (h / 2 - math.sqrt(3) / 2 * n0 + s * (math.sqrt(15) / 4 * k + n1 / 4)) / math.sqrt(2),
                (k / 4 - math.sqrt(15) / 4 * n1 + s * n2) / math.sqrt(2),
            )
        )
    return found[0], found[1]


def integrals(standard: Triple, length: float) -> Triple:
    """(W, int W du, int u W du) of an interval."""
    w = standard[0] * math.sqrt(length)
    H = standard[1] * math.sqrt(length / 12)
    K = standard[2] * math.sqrt(length / 720)
    first = length * (H + w / 2)
    return w, first, length / 2 * first + length**2 * (w / 12 - K)


def joined(a: Triple, length_a: float, b: Triple, length_b: float) -> Triple:
    """Integrals over two neighbours together."""
    w, first = a[0] + b[0], a[1] + a[0] * length_b + b[1]
    return w, first, a[2] + a[0] * (length_a * length_b + length_b**2 / 2) + length_a * b[1] + b[2]


def w_h_k(found: Triple, length: float) -> Triple:
    """(W, H, K) by their definitions."""
    w, first, second = found
    return w, first / length - w / 2, (length / 2 * first - second + w * length**2 / 12) / length**2


def path_w_h_k(
    seed: int, path: int, channel: int, start: int, end: int, unit: float, levels: int = 32
) -> tuple[float, float, float]:
    """(W, H, K) over [start, end) in units of 2^-levels cells; ``unit``: length of a cell. By recursive halving."""
    tick = unit / 2**levels

    def within(interval: Triple, level: int, index: int) -> Triple | None:
        """Integrals over what of [start, end) lies in an interval."""
        size = 2 ** (levels - level)
        low, high = max(start, index * size), min(end, (index + 1) * size)
        if low >= high:
            return None
        if high - low == size:
            return integrals(interval, size * tick)
        z = _normals(seed, path, (index >> 32) % 2**32, channel, 8 + level, index % 2**32)
        left, right = halves(interval, (z[0], z[1], z[2]))
        a, b = within(left, level + 1, 2 * index), within(right, level + 1, 2 * index + 1)
        if a is None or b is None:
            return b if a is None else a
        middle = index * size + size // 2
        return joined(a, (middle - low) * tick, b, (high - middle) * tick)

    total: Triple = (0.0, 0.0, 0.0)
    done = start
    for cell in range(start >> levels, ((end - 1) >> levels) + 1):
        part = within(cell_triple(seed, path, channel, cell), 0, cell)
        if part is not None:
            after = min(end, (cell + 1) << levels)
            total = joined(total, (done - start) * tick, part, (after - done) * tick)
            done = after
    return w_h_k(total, (end - start) * tick)
