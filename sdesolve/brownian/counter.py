"""The counter layout: which word of the generator's counter names what. Frozen.

A random number is a pure function of its name. The name is a Philox key and counter, six 32-bit words:

    ====  ==============================================================================================
    word  meaning
    ====  ==============================================================================================
    k0    low 32 bits of the seed (a Python int in [0, 2^64))
    k1    high 32 bits of the seed
    c0    trajectory id, 0 <= id < 2^32
    c1    cell word, two's complement: cell >> 2 for whole cells, which are packed four to a call;
          the cell itself (floor of its start / dt) for off-grid steps; nodes: the high word of their index
    c2    channel (low 24 bits) | stream << 24 (high 8 bits)
    c3    0 for whole cells; off-grid steps: the tick, in units of 2^-32 of the cell; nodes: the low word
          of their index
    ====  ==============================================================================================

    ======  ===============================================================================================
    stream  drawn from it
    ======  ===============================================================================================
    0       W: Brownian increments of whole cells
    1       H: space-time Levy areas of whole cells
    2       K: space-time-time Levy areas of whole cells
    3       Levy areas between channels of whole cells; the channel word numbers the pairs i < j
    4       off-grid steps: steps of a fixed-step solve that are not whole cells; W, H, K from one call
    5       Levy areas between channels of off-grid steps
    6       Levy areas between channels of the intervals within a cell, by a hash of their ends (see `path`)
    7       free
    8-126   nodes of the bridge: stream 8 + k halves the intervals [i, i + 1) cell / 2^k, whose index i, 64
            bits in two's complement, stands in c1 and c3; W, H, K from one call
    127     free
    +128    the refinement of stream - 128: 32 further bits for every word, drawn for float64 only
    ======  ===============================================================================================

A call of the generator gives four words w0..w3 and by Box-Muller four normals: z0, z1 from the uniforms of
w0 (radius) and w1 (angle), z2, z3 from those of w2 and w3; even components take the cosine. The normal of
whole cell n is component n & 3 of the call with c1 = n >> 2, so cells reach over [-2^33, 2^33). Off-grid
steps, in cells of [-2^31, 2^31), and nodes take z0 for W, z1 for H and z2 for K.

float64 normals are made of the float32 words with the refinement stream's words behind them: the same numbers
with more digits. float32 pays for one call per four normals, float64 for two.

The functions here are elementwise, without state, branches on values or host synchronisation: they serve
eager and compiled loops alike.
"""

import operator
from collections.abc import Sequence

import torch
from torch import Tensor

from sdesolve.brownian.normal import box_muller, uniform
from sdesolve.brownian.philox import WORD, is_plain, philox4x32, shared_among_threads
from sdesolve.errors import message

W, H, K, AREA, OFF_GRID, OFF_GRID_AREA, INNER_AREA = 0, 1, 2, 3, 4, 5, 6
NODE, LEVELS = 8, 119
REFINEMENT = 128

CELLS_PER_CALL = 4
MAX_CELL = 2**33
"""Whole cells lie in [-MAX_CELL, MAX_CELL)."""
MAX_OFF_GRID_CELL = 2**31
"""Cells of off-grid steps lie in [-MAX_OFF_GRID_CELL, MAX_OFF_GRID_CELL)."""
MAX_CHANNELS = 2**24
MAX_PATH = 2**32
"""Trajectory ids lie in [0, MAX_PATH)."""

BLOCK = 2**18
"""Normals that a block should hold: enough that the time of a call, which does not depend on it, does not count."""
CALLS = 2**14
"""Calls of the generator that are made at once on one thread: their temporary arrays stay in its cache."""

Key = tuple[Tensor, Tensor]
"""Words (k0, k1) of a seed: 0-d int64 tensors."""
Words = tuple[Tensor, Tensor, Tensor, Tensor]
Names = tuple[Tensor, Tensor]
"""Trajectory ids and channels over a flat index."""


def key_words(seed: int, device: torch.device | str | None = None) -> Key:
    """Key words (k0, k1) of a seed: its low and its high 32 bits, as 0-d int64 tensors.

    Raises
    ------
    ValueError
        If `seed` is not an int in [0, 2^64).
    """
    if isinstance(seed, bool) or not hasattr(seed, "__index__") or not 0 <= operator.index(seed) < 2**64:
        raise ValueError(message("seed", f"{seed!r} ({type(seed).__name__})", "an int in [0, 2**64)"))
    value = operator.index(seed)
    return torch.tensor(value & WORD, device=device), torch.tensor(value >> 32, device=device)


def whole_cell_counter(paths: Tensor, channels: int, quads: Tensor, stream: int = W) -> Words:
    """Counter words that name the calls for cells 4 quad .. 4 quad + 3 of every path and channel.

    Parameters
    ----------
    paths
        Trajectory ids, int64 `(batch,)`.
    channels
        Number of channels; they are numbered 0 .. channels - 1.
    quads
        Values of cell >> 2, int64 `(Q,)`, or `(Q, batch)` if every path has a clock of its own.

    Returns
    -------
    Words (c0, c1, c2, c3), int64, that broadcast to `(Q, batch * channels)`; the channel varies fastest.
    """
    return _counter(paths, channels, quads, torch.zeros_like(quads[:1]), stream)


def off_grid_counter(paths: Tensor, channels: int, cells: Tensor, ticks: Tensor, stream: int = OFF_GRID) -> Words:
    """Counter words that name the calls for off-grid steps, see `step_cells`.

    `cells` and `ticks` are int64 `(K,)` or `(K, batch)`; the words broadcast to `(K, batch * channels)`.
    """
    return _counter(paths, channels, cells, ticks, stream)


def cell_normals(key: Key, paths: Tensor, channels: int, quads: Tensor, dtype: torch.dtype, stream: int = W) -> Tensor:
    """Standard normals of whole cells, four consecutive cells for each quad.

    Parameters
    ----------
    key
        Words of the seed, see `key_words`.
    paths
        Trajectory ids, int64 `(batch,)`, each in [0, 2^32).
    channels
        Number of channels, up to 2^24.
    quads
        Values of cell >> 2, int64 `(Q,)`, or `(Q, batch)` if every path has a clock of its own.
    dtype
        `torch.float32` or `torch.float64`.
    stream
        Which of the table's streams to draw from.

    Returns
    -------
    `(4 Q, batch, channels)`: row 4 i + j belongs to cell 4 quads[i] + j.
    """
    z = _drawn(key, whole_cell_counter(paths, channels, quads, stream), dtype, CELLS_PER_CALL, 1)
    return z.view(CELLS_PER_CALL * quads.shape[0], paths.shape[0], channels)


def quad_normals(
    key: Key, paths: Tensor, channels: int, quad: Tensor, dtype: torch.dtype, stream: int = W
) -> tuple[Tensor, ...]:
    """The same of one quad, (1,), as four tensors (1, batch, channels)."""
    z = _normals(key, whole_cell_counter(paths, channels, quad, stream), dtype)
    return tuple(x.view(1, paths.shape[0], channels) for x in z)


def off_grid_normals(
    key: Key,
    paths: Tensor,
    channels: int,
    cells: Tensor,
    ticks: Tensor,
    dtype: torch.dtype,
    stream: int = OFF_GRID,
    count: int = 1,
) -> tuple[Tensor, ...]:
    """The first `count` standard normals of the calls of off-grid steps, each `(K, batch, channels)`.

    `cells` and `ticks`, int64 `(K,)` or `(K, batch)`, name the steps, see `step_cells`; the other arguments
    are those of `cell_normals`. Each step costs a call of its own.
    """
    z = _drawn(key, off_grid_counter(paths, channels, cells, ticks, stream), dtype, count, 0)
    return z.view(count, cells.shape[0], paths.shape[0], channels).unbind()


def flat_names(paths: Tensor, channels: int) -> Names:
    """Trajectory and channel words over the flat index path * channels + channel, `(batch * channels,)` each."""
    batch = paths.shape[0]
    number = torch.arange(channels, dtype=torch.int64, device=paths.device)
    return paths[:, None].expand(batch, channels).reshape(-1), number.expand(batch, channels).reshape(-1)


def normals_of_cells(key: Key, names: Names, cells: Tensor, dtype: torch.dtype, stream: int | Tensor = W) -> Tensor:
    """Standard normals of single cells, int64 of any shape that broadcasts with the flat names (and with streams, if
    there are several); each costs a call."""
    path, channel = names
    four = _normals(key, (path, (cells >> 2) & WORD, channel | (stream << 24), torch.zeros_like(cells)), dtype)
    which = cells & 3
    low, high = torch.where(which == 0, four[0], four[1]), torch.where(which == 2, four[2], four[3])
    return torch.where(which < 2, low, high)


def node_normals(
    key: Key, names: Names, level: Tensor, index: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Three standard normals by which interval `index` of a level is halved; int64 that broadcast with the names."""
    path, channel = names
    counter = (path, (index >> 32) & WORD, channel | ((level + NODE) << 24), index & WORD)
    w, h, k = _normals(key, counter, dtype, 3)
    return w, h, k


def name_normals(key: Key, names: Names, name: Tensor, dtype: torch.dtype, stream: int) -> Tensor:
    """Standard normals of 64-bit names, int64 of any shape that broadcasts with the flat names."""
    path, channel = names
    return _normals(key, (path, (name >> 32) & WORD, channel | (stream << 24), name & WORD), dtype, 1)[0]


def _counter(paths: Tensor, channels: int, cells: Tensor, nodes: Tensor, stream: int) -> Words:
    """Words over the flat index path * channels + channel: `(1 or K, 1 or batch * channels)`.

    Flat, because compiled code vectorises over the last dimension: with channels in a dimension of their own,
    two channels would cost five times as much a normal.
    """
    path, channel = flat_names(paths, channels)
    return path[None], _flat(cells & WORD, channels), (channel | (stream << 24))[None], _flat(nodes & WORD, channels)


def _flat(values: Tensor, channels: int) -> Tensor:
    """`(K,)` -> `(K, 1)`, `(K, batch)` -> `(K, batch * channels)`."""
    if values.ndim == 1:
        return values[:, None]
    return values[..., None].expand(*values.shape, channels).flatten(1)


def _drawn(key: Key, counter: Words, dtype: torch.dtype, count: int, dim: int) -> Tensor:
    """The first `count` normals of each call, stacked along `dim`; eager, in parts that stay in the cache."""
    if not all(map(is_plain, (*key, *counter))) or key[0].ndim or key[1].ndim:
        return torch.stack(_normals(key, counter, dtype, count), dim)
    rows, width = counter[1].shape[0], counter[0].shape[1]
    shape = [rows, width]
    shape.insert(dim, count)
    out = torch.empty(shape, dtype=dtype)
    each = out.unbind(dim)
    most = 2 * CALLS * torch.get_num_threads() if shared_among_threads(rows * width) else CALLS
    if rows * width <= most:
        _normals(key, counter, dtype, count, each)
        return out
    columns = min(width, max(most // rows, 1024))
    lines = max(most // columns, 1)
    for i in range(0, rows, lines):
        for j in range(0, width, columns):
            c0, c1, c2, c3 = (_cut(word, slice(i, i + lines), slice(j, j + columns)) for word in counter)
            part = c0, c1, c2, c3
            _normals(key, part, dtype, count, [z[i : i + lines, j : j + columns] for z in each])
    return out


def _cut(word: Tensor, rows: slice, columns: slice) -> Tensor:
    """A part of a word, along the dimensions in which it varies."""
    return word[rows if word.shape[0] > 1 else slice(None), columns if word.shape[1] > 1 else slice(None)]


def _normals(
    key: Key, counter: Words, dtype: torch.dtype, count: int = CELLS_PER_CALL, out: Sequence[Tensor] = ()
) -> tuple[Tensor, ...]:
    """The first `count` normals of each call, of the counter's broadcast shape; written into `out` if it is given."""
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(message("dtype", dtype, "torch.float32 or torch.float64"))
    words: list[tuple[Tensor, ...]] = [(word,) for word in philox4x32(*counter, *key)]
    if dtype == torch.float64:
        c0, c1, c2, c3 = counter
        finer = philox4x32(c0, c1, c2 | (REFINEMENT << 24), c3, *key)
        words = [(*word, more) for word, more in zip(words, finer, strict=True)]
    z: list[Tensor] = []
    for k in range(0, count, 2):
        z += box_muller(uniform(*words[k]), uniform(*words[k + 1]), out[k : k + 2])
    return tuple(z[:count])
