"""Increments over lattice intervals, many at once: what adaptive steps, and steps that cut cells, ask for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy

import torch
from torch import Tensor

from sdesolve.brownian.bridge import descend, interval, levels_needed, weights
from sdesolve.brownian.correlation import correlated
from sdesolve.brownian.counter import (
    AREA,
    BLOCK,
    CELLS_PER_CALL,
    INNER_AREA,
    LEVELS,
    H,
    K,
    Key,
    Names,
    W,
    flat_names,
    key_words,
    name_normals,
    node_normals,
    normals_of_cells,
)
from sdesolve.brownian.levy import Increment, Normals, davie_foster, pairs, reversed_increment, share

#: levels of the lattice below a window's cells
DEPTH = 32

#: length of the cells of a path that is made for adaptive steps: 2^SEED_EXPONENT
SEED_EXPONENT = 32

#: from so many trajectories times channels on, eager queries sort them by the levels they need
_SORTED_WIDTH = 4096

#: a part of the flat index, or all of it
Cut = slice | Tensor | None

_MIX, _MIX_2 = 0x9E3779B97F4A7C15 - 2**64, 0xBF58476D1CE4E5B9 - 2**64


class Source:
    """The normals of all cells and nodes of the paths of a seed, over a stretch of the flat index path * channels +
    channel."""

    def __init__(self, key: Key, names: Names, dtype: torch.dtype) -> None:
        self.key, self.names, self.dtype = key, names, dtype
        self.width = names[0].shape[0]

    def part(self, cut: Cut) -> Source:
        """A part of this one."""
        if cut is None:
            return self
        return type(self)(self.key, (self.names[0][cut], self.names[1][cut]), self.dtype)

    def cells(self, cells: Tensor) -> Normals:
        """Of single cells, of a shape (..., width) or (..., 1)."""
        streams = torch.tensor([W, H, K], device=cells.device).reshape(-1, *(1,) * max(cells.ndim, 1))
        return Normals(*normals_of_cells(self.key, self.names, cells[None], self.dtype, streams).unbind(0))

    def nodes(self, level: Tensor, index: Tensor) -> Normals:
        """By which interval ``index`` of a level is halved."""
        return Normals(*node_normals(self.key, self.names, level, index, self.dtype))


class Window:
    """A path cut into cells of its own, or into dyadic parts of them, and the lattice of ticks in these.

    level : the window's cells are 2^-level of the path's. depth : a tick is 2^-depth of a window's cell. tick : its
    length. first, count : where queries touch a few of the window's cells only, the number of the first, int64 (1,) or
    (batch,), and how many; their normals are then computed once. known : first (flat), and those normals, (count,
    batch * channels), where they are at hand; and so for names, those of the source.
    """

    def __init__(
        self,
        key: Key,
        paths: Tensor,
        shape: Sequence[int],
        dtype: torch.dtype,
        *,
        tick: float | Tensor,
        level: int | Tensor = 0,
        depth: int = DEPTH,
        levy: str | None = None,
        factor: Tensor | None = None,
        first: Tensor | None = None,
        count: int = 0,
        known: tuple[Tensor, Normals] | None = None,
        names: Names | None = None,
    ) -> None:
        self.key, self.paths, self.shape, self.dtype = key, paths, tuple(shape), dtype
        self.channels = math.prod(shape)
        self.source = Source(key, flat_names(paths, self.channels) if names is None else names, dtype)
        self.tick, self.level, self.depth = tick, level, depth
        self.levy, self.factor = levy, factor
        self.count, self._table = count, None if known is None else known[1]
        if known is not None:
            self.first = known[0]
        elif first is not None:
            self.first = self._flat(first, self.channels)

    @property
    def table(self) -> Normals | None:
        """The normals of the few cells that queries touch, computed when they are first asked for."""
        if self._table is None and self.count:
            assert isinstance(self.level, int)
            index = self.cells
            cuts = _cuts(0, self.source.width, self.count * max(self.level, 1))
            self._table = _side_by_side([self._roots(self.source.part(cut), _narrow(index, cut)) for cut in cuts])
        return self._table

    @table.setter
    def table(self, known: Normals) -> None:
        self._table = known

    @property
    def has_table(self) -> bool:
        """Whether they are computed."""
        return self._table is not None

    @property
    def cells(self) -> Tensor:
        """Numbers of the few cells, (count, 1 or batch * channels)."""
        return self.first + torch.arange(self.count, device=self.paths.device)[:, None]

    def __call__(self, start: Tensor, end: Tensor) -> Increment:
        """Over [start, end), int64 ticks, (..., lanes) with one lane for each trajectory or one for all; where
        start > end, over the interval read backwards. (..., batch, *shape); 0 where start = end."""
        low, high = torch.minimum(start, end), torch.maximum(start, end)
        length = (high - low).to(self.dtype) * self.tick
        normals = self._in_parts(self._flat(low, self.channels), self._flat(high, self.channels))
        inc = normals.increment(self._flat(length, self.channels).sqrt(), self.levy)
        inc = inc.map(lambda x: self._by_channel(x, low, self.channels))
        if self.levy == "davie-foster":
            inc = inc._replace(area=self._area(inc, low, high, length))
        inc = correlated(inc, self.factor)
        turned = (start > end)[..., None]
        both = zip(inc, reversed_increment(inc), strict=True)
        inc = Increment(*(None if a is None or b is None else _choose(turned, b, a) for a, b in both))
        area, inc = inc.area, inc._replace(area=None)
        return inc.map(lambda x: x.reshape(*x.shape[:-1], *self.shape))._replace(area=area)

    def part(self, lanes: Tensor) -> Window:
        """Of some of the trajectories."""
        of = copy(self)
        flat = (lanes[:, None] * self.channels + torch.arange(self.channels, device=lanes.device)).flatten()
        of.paths, of.source = self.paths[lanes], self.source.part(flat)
        if self.table is not None:
            of.first = self.first if self.first.shape[-1] == 1 else self.first[flat]
            of.table = Normals(*(x[:, flat] for x in self.table))
        return of

    def _flat(self, lanes: Tensor, channels: int) -> Tensor:
        """(..., batch) -> (..., batch * channels); a last dimension of 1 stays."""
        if lanes.shape[-1] == 1 or channels == 1:
            return lanes
        return lanes[..., None].expand(*lanes.shape, channels).flatten(-2)

    def _by_channel(self, x: Tensor, lanes: Tensor, channels: int) -> Tensor:
        """(..., batch * channels) -> (..., batch, channels), for queries of the shape of ``lanes``."""
        batch = len(self.paths)
        return x.expand(*lanes.shape[:-1], batch * channels).unflatten(-1, (batch, channels))

    def _in_parts(self, s: Tensor, e: Tensor) -> Normals:
        """Normals of the intervals; eager, in parts that stay in the cache."""
        width = self.source.width
        if torch.compiler.is_compiling():
            return self._normals(s, e, None, None)
        if s.ndim == 1 and s.shape[0] == width > _SORTED_WIDTH:
            return self._by_levels(s, e)
        levels = levels_needed(s, e, self.depth)
        rows = 2 * max(s.numel() // max(s.shape[-1], 1), 1) * max(levels, 1)
        cuts: list[Cut] = [*_cuts(0, width, rows)]
        cuts = cuts if len(cuts) > 1 else [None]
        return _side_by_side([self._normals(_narrow(s, cut), _narrow(e, cut), cut, levels) for cut in cuts])

    def _by_levels(self, s: Tensor, e: Tensor) -> Normals:
        """The same for many trajectories on clocks of their own, those together that need about as many levels: most
        rest or end on coarse ticks, few land on an output."""
        both = torch.where(s == e, 0, s | e)
        low = torch.where(both == 0, 1 << self.depth, both & -both).clamp(max=1 << self.depth)
        need, order = torch.sort(self.depth - low.double().log2().round().to(torch.int64))
        bounds = torch.tensor([0, 4, 8, 12, 16, 24, self.depth], device=s.device)
        ends = torch.searchsorted(need, bounds, right=True).tolist()
        parts, begin = [], 0
        for levels, end in zip(bounds.tolist(), ends, strict=True):
            for cut in _cuts(begin, end, 2 * max(levels, 1)) if end > begin else []:
                lanes = order[cut]
                parts.append(self._normals(s[lanes], e[lanes], lanes, min(levels, self.depth)))
            begin = max(begin, end)
        place = torch.argsort(order)
        return Normals(*(x[place] for x in _side_by_side(parts)))

    def _normals(self, s: Tensor, e: Tensor, cut: Cut, levels: int | None) -> Normals:
        """Normals of the intervals for a part of the flat index, see `interval`."""
        source = self.source.part(cut)
        roots = lambda cells: self._roots(source, cells) if self.table is None else self._known(cells, cut)
        nodes = lambda level, index: source.nodes(level + self.level, index)
        cells = torch.stack([s, e]) >> self.depth
        found = interval(roots(cells), nodes, s, e, self.depth, levels)
        if torch.compiler.is_compiling() or not s.numel():
            return found  # a compiled query is no longer than a cell
        length = (e - s).clamp(min=1)
        size = torch.full_like(length, 1 << self.depth)
        for k in range(1, int((cells[1] - cells[0]).max())):
            cell = cells[0] + k
            r, d = weights(cell << self.depth, size, s, length, self.dtype)
            here = cell < cells[1]
            part = share(roots(cell), torch.where(here, r, 0.0), torch.where(here, d, 0.0))
            found = Normals(*(a + b for a, b in zip(found, part, strict=True)))
        return found

    def _roots(self, source: Source, index: Tensor) -> Normals:
        """Normals of cells of the window."""
        level = self.level if isinstance(self.level, int) else 0  # compiled, all other levels have a table
        return descend(source.cells(index >> level), source.nodes, index, level)

    def _known(self, cells: Tensor, cut: Cut) -> Normals:
        """The same from the table."""
        assert self.table is not None
        index = (cells - _narrow(self.first, cut)).clamp(0, len(self.table.w) - 1)
        rows = self.table if cut is None else [x[:, cut] for x in self.table]
        shape = (*index.shape[:-1], rows[0].shape[-1])
        index = index.expand(shape).reshape(math.prod(shape[:-1]), shape[-1])
        return Normals(*(x.gather(0, index).reshape(shape) for x in rows))

    def _area(self, inc: Increment, s: Tensor, e: Tensor, length: Tensor) -> Tensor:
        """Levy areas between channels. A cell's are those that `cells` gives; other intervals' are named by their ends:
        of one interval right in law given its W and H, but not the sum of its parts'."""
        assert inc.w is not None and inc.H is not None
        count = pairs(self.channels)
        names = flat_names(self.paths, count)
        z = name_normals(
            self.key, names, self._flat(_name(s, e, self.level + self.depth), count), self.dtype, INNER_AREA
        )
        if isinstance(self.level, Tensor) or self.level == 0:
            whole = ((s & ((1 << self.depth) - 1)) == 0) & (e - s == 1 << self.depth)
            whole = whole & (self.level == 0) if isinstance(self.level, Tensor) else whole
            cell = normals_of_cells(self.key, names, self._flat(s >> self.depth, count), self.dtype, AREA)
            z = torch.where(self._flat(whole, count), cell, z)
        return davie_foster(inc.w, inc.H, length[..., None], self._by_channel(z, s, count))


def _cuts(begin: int, end: int, rows: int) -> list[slice]:
    """A stretch of the flat index in parts; ``rows`` calls of the generator a column."""
    size = max(BLOCK // (CELLS_PER_CALL * rows), 256)
    if end - begin <= 2 * size:
        return [slice(begin, end)]
    return [slice(first, min(first + size, end)) for first in range(begin, end, size)]


def _narrow(lanes: Tensor, cut: Cut) -> Tensor:
    return lanes if cut is None or lanes.shape[-1] == 1 else lanes[..., cut]


def _side_by_side(parts: list[Normals]) -> Normals:
    return parts[0] if len(parts) == 1 else Normals(*(torch.cat(x, -1) for x in zip(*parts, strict=True)))


def _name(s: Tensor, e: Tensor, scale: int | Tensor) -> Tensor:
    """64 bits for the interval [s, e) in units of 2^-scale cells, the same whatever the units."""
    both = s | e
    low = torch.where(both == 0, 1, both & -both)
    zeros = low.to(torch.float32).log2().round().to(torch.int64)  # a power of two up to 2^62
    name = (s >> zeros) * _MIX + (scale - zeros)
    name = (name ^ (name >> 30)) * _MIX_2 + (e >> zeros)
    return (name ^ (name >> 27)) * _MIX


def _choose(mask: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(mask.reshape(*mask.shape, *(1,) * (a.ndim - mask.ndim)), a, b)


class Windows:
    """Windows of some of the trajectories each, numbers in ascending order, side by side. tick and depth are (batch,)
    here."""

    def __init__(self, parts: list[tuple[Tensor, Window]]) -> None:
        self.parts, self.shape = parts, parts[0][1].shape
        order = torch.cat([lanes for lanes, _ in parts])
        self.place = torch.argsort(order)
        of = lambda values, dtype: torch.tensor(values, dtype=dtype, device=order.device).repeat_interleave(
            torch.tensor([len(lanes) for lanes, _ in parts], device=order.device)
        )
        self.tick = of([window.tick for _, window in parts], torch.float64)[self.place]
        self.depth = of([window.depth for _, window in parts], torch.int64)[self.place]

    def part(self, lanes: Tensor) -> Windows:
        """Of some of the trajectories, in ascending order."""
        parts = []
        for members, window in self.parts:
            place = torch.isin(lanes, members).nonzero()[:, 0]
            if len(place):
                parts.append((place, window.part(torch.searchsorted(members, lanes[place]))))
        return Windows(parts)

    def __call__(self, start: Tensor, end: Tensor) -> Increment:
        """Over [start, end), int64 ticks (batch,), see `Window`."""
        found = [window(start[lanes], end[lanes]) for lanes, window in self.parts]
        joined = (None if x[0] is None else torch.cat(x)[self.place] for x in zip(*found, strict=True))
        return Increment(*joined)


def window_of_seed(
    seed: int,
    paths: Tensor,
    shape: Sequence[int],
    ts: tuple[float, float],
    dtype: torch.dtype,
    levy: str | None,
) -> Window:
    """The path of a seed for adaptive steps between two times.

    It is the path of cells of length 2^32 from time 0, whatever the times, steps or method; the window's cells are the
    dyadic intervals just longer than the span, of which there are two, and its ticks 2^-32 of these.
    """
    ends = torch.tensor([[min(ts)], [max(ts)]], dtype=torch.float64)
    return _window(seed, paths, shape, ends, dtype, levy, *_lattice(min(ts), max(ts)))


def windows_of_seed(
    seed: int,
    paths: Tensor,
    shape: Sequence[int],
    low: Sequence[float],
    high: Sequence[float],
    dtype: torch.dtype,
    levy: str | None,
) -> Windows:
    """The same for trajectories with times of their own, (batch,), each of which sees what it would see alone."""
    groups: dict[tuple[int, int], list[int]] = {}
    for lane, span in enumerate(zip(low, high, strict=True)):
        groups.setdefault(_lattice(*span), []).append(lane)
    ends = torch.tensor([list(low), list(high)], dtype=torch.float64)
    parts = []
    for lattice, lanes in groups.items():
        chosen = torch.tensor(lanes, device=paths.device)
        window = _window(seed, paths[chosen], shape, ends[:, lanes], dtype, levy, *lattice)
        parts.append((chosen, window))
    return Windows(parts)


def _lattice(low: float, high: float) -> tuple[int, int]:
    """(exponent, depth) of a window for a span of time: its cells have length 2^exponent, a tick is 2^-depth of it."""
    mantissa, exponent = math.frexp(high - low)
    exponent = exponent - 1 if mantissa == 0.5 else exponent
    exponent = min(max(exponent, SEED_EXPONENT + DEPTH - LEVELS), SEED_EXPONENT)
    reach = max(abs(low), abs(high)) / 2.0**exponent
    return exponent, min(DEPTH, 61 - max(math.frexp(reach)[1], 0))


def _window(
    seed: int,
    paths: Tensor,
    shape: Sequence[int],
    ends: Tensor,
    dtype: torch.dtype,
    levy: str | None,
    exponent: int,
    depth: int,
) -> Window:
    """For spans (2, 1) or (2, batch) of one lattice."""
    low, high = torch.floor(ends / 2.0**exponent).to(dtype=torch.int64, device=paths.device)
    few = exponent < SEED_EXPONENT or bool((high - low <= 2).all())
    return Window(
        key_words(seed, paths.device),
        paths,
        shape,
        dtype,
        tick=2.0 ** (exponent - depth),
        level=SEED_EXPONENT - exponent,
        depth=depth,
        levy=levy,
        first=low if few else None,
        count=int((high - low).max()) + 1 if few else 0,
    )
