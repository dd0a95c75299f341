"""The dyadic bridge: a rotation of normals, and the path that plain recursive halving gives."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sdesolve.brownian import BrownianPath, bridge_loop
from sdesolve.brownian import bridge as bridge_module
from sdesolve.brownian.bridge import levels_needed
from sdesolve.brownian.levy import Normals
from tests.brownian.reference import halves, integrals, joined, path_w_h_k, w_h_k

F64 = torch.float64
CELL = 1 << 32
SEED = st.integers(0, 2**64 - 1)
TICK = st.one_of(
    st.integers(-5 * CELL, 5 * CELL),
    st.integers(-5, 5).map(lambda cell: cell * CELL),
    st.integers(-40, 40),
    st.tuples(st.integers(-(2**10), 2**10), st.integers(0, 32)).map(lambda x: x[0] << x[1] >> 8),
)


def matrix_of_the_bridge():
    """(w', h', k') left, then right, of the basis vectors (w, h, k, n0, n1, n2): (6, 6), by both modules."""
    w, h, k, n0, n1, n2 = torch.eye(6, dtype=F64)
    columns = []
    for side in (1.0, -1.0):
        one = bridge_loop.halves(Normals(w, h, k), Normals(n0, n1, n2), torch.full((6,), side, dtype=F64))
        way, sibling = bridge_module._halves(
            Normals(w, h, k), Normals(n0[None], n1[None], n2[None]), torch.full((1, 6), side, dtype=F64)
        )
        columns.append([x[0] for x in (*way, *sibling)])
        torch.testing.assert_close([*one[0], *one[1]], columns[-1], rtol=0, atol=1e-15)
    left, right = columns
    torch.testing.assert_close(torch.stack(left), torch.stack(right[3:] + right[:3]), rtol=0, atol=1e-15)
    return torch.stack(left)


def test_halving_is_a_rotation_of_three_normals_and_three_new_ones():
    """So the halves' six are independent standard normals again: the law is exact."""
    Q = matrix_of_the_bridge()
    torch.testing.assert_close(Q @ Q.T, torch.eye(6, dtype=F64), rtol=0, atol=1e-15)


@given(*[st.floats(-5, 5)] * 6, st.floats(1e-3, 1e3))
def test_the_halves_of_an_interval_join_to_the_interval(w, h, k, n0, n1, n2, length):
    """By the definitions of W, H and K as integrals."""
    left, right = matrix_of_the_bridge().mv(torch.tensor([w, h, k, n0, n1, n2], dtype=F64)).view(2, 3).tolist()
    assert np.allclose([left, right], halves((w, h, k), (n0, n1, n2)), rtol=0, atol=1e-14)
    both = joined(integrals(left, length / 2), length / 2, integrals(right, length / 2), length / 2)
    scale = math.sqrt(length)
    expected = np.array([w, h / math.sqrt(12), k / math.sqrt(720)]) * scale
    assert np.allclose(w_h_k(both, length), expected, rtol=0, atol=1e-13 * scale)


@example(0, 0, 0, CELL, 1)
@example(0, 3, -CELL, CELL, 1)
@example(0, 3, -1, 1, 1)
@example(0, 3, CELL - 1, 3 * CELL + 1, 1)
@given(SEED, st.integers(0, 2**32 - 1), TICK, TICK, st.integers(1, 2))
@settings(max_examples=150)
def test_w_h_and_k_of_every_lattice_interval_are_those_of_plain_recursive_halving(seed, path_id, a, b, channels):
    path = BrownianPath(seed, (1, channels), cell=0.7, paths=[path_id], dtype=F64)
    start, end = min(a, b), max(a, b) + (a == b)
    expected = path_w_h_k(seed, path_id, channels - 1, start, end, 0.7)
    root = math.sqrt((end - start) * 0.7 / CELL)
    one = path.window("space-time-time")(torch.tensor([start]), torch.tensor([end]))
    for found in (one, path.between(start, end, "space-time-time")):
        got = [x[0, -1].item() for x in (found.w, found.H, found.K)]
        assert np.allclose(got, expected, rtol=0, atol=1e-12 * root)


@given(SEED, st.integers(0, 2**20), st.integers(1, 2**20), st.integers(0, 12), st.sampled_from([torch.float32, F64]))
def test_the_number_of_levels_that_others_need_does_not_change_a_bit(seed, start, length, shift, dtype):
    """An interval of few levels alone, and stacked beside one that goes down to single ticks."""
    path = BrownianPath(seed, (3,), cell=1.0, dtype=dtype)
    query = path.window("space-time-time")
    shallow = torch.tensor([start << shift, (start + length) << shift])
    deep = torch.tensor([12345, 2**33 + 54321])
    alone = query(shallow[:1], shallow[1:])
    beside = query(torch.stack([deep[:1], shallow[:1]]), torch.stack([deep[1:], shallow[1:]]))
    assert all(torch.equal(a, b[1]) for a, b in zip(alone, beside, strict=True) if a is not None)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 2e-6), (F64, 4e-15)])
def test_rounding_does_not_grow_on_the_way_down(dtype, bound):
    """32 levels of halving, against levels one at a time in float64."""
    noise = torch.randn(3, 32, 1000, generator=torch.Generator().manual_seed(0), dtype=F64)
    side = torch.where(noise[0] * noise[1] > 0, 1.0, -1.0)
    start = Normals(*noise[:, 0])
    rows = bridge_module._halves(Normals(*(x.to(dtype) for x in start)), Normals(*noise.to(dtype)), side.to(dtype))
    for level in range(32):
        n0, n1, n2 = noise[:, level]
        left, right = halves(start, (n0, n1, n2))
        for found, on in zip(rows, (side[level] > 0, side[level] < 0), strict=True):
            for x, a, b in zip(found, left, right, strict=True):
                assert (x[level].double() - torch.where(on, a, b)).abs().max() < bound
        start = Normals(*(torch.where(side[level] > 0, a, b) for a, b in zip(left, right, strict=True)))


@given(st.lists(st.tuples(TICK, TICK), min_size=1, max_size=5))
def test_levels_needed_are_those_of_the_finest_end(intervals):
    s, e = torch.tensor(intervals).T
    finest = max(
        (32 - min((x & -x).bit_length() - 1, 32) for a, b in intervals if a != b for x in (a, b) if x), default=0
    )
    assert levels_needed(s, e, 32) == finest


def test_a_query_draws_one_call_a_level_and_end_only():
    """The cost is local to the cell, whatever lies between time 0 and the interval."""
    calls = []
    path = BrownianPath(0, (1,), cell=1.0, dtype=torch.float32)
    window = path.window(None)
    draw = window.source.nodes
    window.source.nodes = lambda level, index: calls.append(tuple(index.shape)) or draw(level, index)
    for cell in (0, 10**9):
        for levels in (1, 5, 32):
            calls.clear()
            start = (cell << 32) + (1 << (32 - levels))
            window(torch.tensor([start]), torch.tensor([(cell + 1) << 32]))
            assert calls == [(levels, 2, 1)]
