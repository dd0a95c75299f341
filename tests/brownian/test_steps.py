"""Increments of the steps of a solve: of the solve's own cells, or along a given path."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdesolve.brownian import BrownianPath
from sdesolve.brownian import steps as steps_module
from sdesolve.brownian.steps import OwnSteps, PathSteps

F32, F64 = torch.float32, torch.float64
EPS = 2.0**-52
LEVY = st.sampled_from([None, "space-time", "space-time-time", "davie-foster"])


class Table:
    """Steps between given times, (N + 1,) or (N + 1, batch)."""

    def __init__(self, times):
        self.times = np.asarray(times, np.float64)
        self.total, self.shared = len(self.times) - 1, self.times.ndim == 1
        self.longest = float(np.abs(np.diff(self.times, axis=0)).max())

    def rows(self, first, last):
        times = self.times[first : last + 1]
        return times, np.diff(times, axis=0)


def along_path(path, times, levy=None):
    return PathSteps(path, Table(times), EPS, levy)


def equal(a, b):
    return all((x is None) == (y is None) and (x is None or torch.equal(x, y)) for x, y in zip(a, b, strict=True))


def close(a, b, atol=1e-13):
    for x, y in zip(a, b, strict=True):
        if x is not None:
            torch.testing.assert_close(x, y, rtol=0, atol=atol)


@given(st.integers(0, 2**64 - 1), LEVY, st.integers(-30, 30), st.integers(1, 9), st.booleans(), st.booleans())
def test_steps_of_the_length_of_a_cell_are_the_solves_own(seed, levy, first, count, backwards, own_clocks):
    """W bitwise, the rest but for the rounding of its scale."""
    times = np.arange(first, first + count + 1) * 0.25
    times = times[::-1].copy() if backwards else times
    times = np.stack([times, times, times], 1) if own_clocks else times
    path = BrownianPath(seed, (3, 2), cell=0.25, dtype=F64)
    own = OwnSteps(seed, path.paths, (2,), Table(times), 0.25, F64, levy)(0, count)
    along = along_path(path, times, levy)(0, count)
    if not own_clocks:
        assert torch.equal(own.w, along.w)
    close(own, along, 1e-15)


def off_grid(seed, dtype, levy, times, dt, shape=(40_000, 2)):
    return OwnSteps(seed, torch.arange(shape[0]), shape[1:], Table(times), dt, dtype, levy)


@pytest.mark.parametrize("levy", ["space-time-time", "davie-foster"])
def test_steps_off_the_grid_have_the_law_of_their_length(levy):
    times = np.array([0.0, 0.3, 0.4, 1.4])
    noise = off_grid(0, F64, levy, times, 0.5)(0, 3)
    for k, h in enumerate(np.diff(times)):
        for x, variance in zip(noise[:3], (h, h / 12, h / 720), strict=True):
            if x is not None:
                z = x[k].flatten() ** 2 / variance
                assert abs(z.mean() - 1) < 4 * math.sqrt(2 / len(z))
        if noise.area is not None:
            z = (noise.area[k, :, 0, 1] / h) ** 2
            assert abs(z.mean() - 1 / 4) < 4 * z.std() / math.sqrt(len(z))


@settings(max_examples=40)
@given(
    st.integers(0, 1000),
    LEVY,
    st.lists(st.sampled_from([0.5, 1.0, 1.5, 0.3, 0.05, 2.0]), min_size=2, max_size=12),
    st.booleans(),
    st.data(),
)
def test_steps_along_a_path_are_its_increments(seed, levy, lengths, backwards, data):
    """Steps that are cells, cut cells and cross several; in blocks of any size."""
    times = -1.0 + np.cumsum([0.0, *lengths])
    times = times[::-1].copy() if backwards else times
    path = BrownianPath(seed, (2, 2), cell=0.5, dtype=F64, levy=levy or "space-time")
    steps = along_path(path, times, levy)
    whole = steps(0, len(lengths))
    for k, (a, b) in enumerate(pairwise(times)):
        expected, got = path(float(a), float(b)), whole.map(lambda x, k=k: x[k])
        parts = zip(got[:3], expected[:3], strict=True)
        close(*zip(*[(x, y) for x, y in parts if x is not None], strict=True))
        if levy == "davie-foster" and (times[k : k + 2] % 0.5 == 0).all():
            close(got, expected)
    cut = data.draw(st.integers(1, len(lengths) - 1))
    parts = steps(0, cut), steps(cut, len(lengths))
    assert all(torch.equal(torch.cat([a, b]), c) for a, b, c in zip(*parts, whole, strict=True) if c is not None)


@given(st.integers(0, 1000), LEVY, st.integers(1, 9), st.sampled_from([1, 2]))
def test_a_save_point_within_a_cell_changes_no_other_step(seed, levy, at, cells):
    times = np.arange(11) * (0.25 * cells)
    more = np.insert(times, at + 1, times[at] + 0.1)
    path = BrownianPath(seed, (2, 2), cell=0.25, dtype=F64)
    plain, cut = along_path(path, times, levy)(0, 10), along_path(path, more, levy)(0, 11)
    before, after = slice(0, at), slice(at + 1, None)
    assert equal(cut.map(lambda x: x[before]), plain.map(lambda x: x[before]))
    assert equal(cut.map(lambda x: x[at + 2 :]), plain.map(lambda x: x[after]))
    torch.testing.assert_close(cut.w[at] + cut.w[at + 1], plain.w[at], rtol=0, atol=1e-14)


@given(st.integers(0, 1000), LEVY, st.sampled_from([F32, F64]))
def test_trajectories_with_times_of_their_own_see_their_own_path(seed, levy, dtype):
    times = np.stack([np.arange(5) * 0.25, np.arange(5) * 0.4, [0.0, 0.1, 1.6, 1.6, 1.6]], 1)
    path = BrownianPath(seed, (3, 2), cell=0.25, dtype=dtype)
    together = along_path(path, times, levy)(0, 4)
    for i in range(3):
        alone = along_path(path.for_paths([i]), times[:, i : i + 1], levy)(0, 4)
        assert equal(alone, together.map(lambda x, i=i: x[:, i : i + 1]))
    shared = along_path(path.for_paths([0]), times[:, 0], levy)(0, 4)
    close(shared, together.map(lambda x: x[:, :1]), 1e-15 if dtype == F64 else 1e-6)
    assert all(not x[2:, 2].any() for x in together if x is not None)


def test_blocks_hold_to_their_size(monkeypatch):
    path = BrownianPath(0, (1000, 2), cell=0.25, dtype=F32)
    times = np.arange(500) * 0.25
    assert along_path(path, times).size == steps_module.BLOCK // 2000
    assert along_path(path, times + 0.1).size < steps_module.BLOCK // 2000 // 16
    assert along_path(path, times[::100]).size == 1
    own = OwnSteps(0, path.paths, (2,), Table(times), 0.25, F32)
    assert own.size == steps_module.BLOCK // 2000 // 4 * 4


def test_steps_of_length_zero_have_no_noise():
    times = np.array([0.0, 0.0, 0.25, 0.25, 0.3, 0.3])
    path = BrownianPath(0, (2, 2), cell=0.25, dtype=F64)
    found = along_path(path, times, "davie-foster")(0, 5)
    assert [bool(x.any()) for x in found.w] == [False, True, False, True, False]
    torch.testing.assert_close(found.w.sum(0), path(0.0, 0.3), rtol=0, atol=1e-15)
