"""Windows: the same path, whichever way it is asked for."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._higher_order_ops.while_loop import while_loop

from sdesolve.brownian import BrownianPath
from sdesolve.brownian import window as window_module
from sdesolve.brownian.window import window_of_seed
from tests.brownian.reference import path_w_h_k

F32, F64 = torch.float32, torch.float64
ALL = "space-time-time"
CELL = 1 << 32
DTYPE = st.sampled_from([F32, F64])
LEVY = st.sampled_from([None, "space-time", ALL, "davie-foster"])


def ticks(*values):
    return torch.tensor(values, dtype=torch.int64)


def random_ends(count, seed=0, reach=3 * CELL):
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randint(-reach, reach, (2, count), generator=generator)
    near = torch.randint(1, 2**20, (count,), generator=generator)
    return a, torch.where(near % 3 == 0, a + near, b)


def equal(a, b):
    return all((x is None) == (y is None) and (x is None or torch.equal(x, y)) for x, y in zip(a, b, strict=True))


def close(a, b, atol):
    for x, y in zip(a, b, strict=True):
        if x is not None:
            torch.testing.assert_close(x, y, rtol=0, atol=atol)


# ---- bits


@settings(max_examples=30)
@given(st.integers(0, 2**64 - 1), DTYPE, LEVY, st.booleans())
def test_eight_together_are_bitwise_eight_alone(seed, dtype, levy, own):
    path = BrownianPath(seed, (8, 3), cell=0.3, dtype=dtype)
    s, e = random_ends(8 if own else 1, seed % 1000)
    together = path.window(levy)(s, e)
    for i in range(8):
        one = (s[i : i + 1], e[i : i + 1]) if own else (s, e)
        alone = path.for_paths([i]).window(levy)(*one)
        assert equal(alone, together.map(lambda x, i=i: x[i : i + 1]))


@settings(max_examples=30)
@given(st.integers(0, 2**64 - 1), DTYPE, LEVY)
def test_a_shared_lane_is_bitwise_a_lane_for_each_trajectory(seed, dtype, levy):
    window = BrownianPath(seed, (5, 2), cell=0.3, dtype=dtype).window(levy)
    s, e = random_ends(1, seed % 1000)
    assert equal(window(s, e), window(s.expand(5), e.expand(5)))


@pytest.mark.parametrize("levy", [None, "davie-foster", ALL])
@pytest.mark.parametrize("dtype", [F32, F64])
def test_any_order_and_number_of_queries_gives_the_same_bits(dtype, levy):
    window = BrownianPath(4, (3, 2), cell=0.3, dtype=dtype).window(levy)
    s, e = random_ends(20)
    together = window(s[:, None], e[:, None])
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    shuffled = window(s[order, None], e[order, None])
    assert equal(shuffled, together.map(lambda x: x[order]))
    for k in (3, 17, 0):
        assert equal(window(s[k : k + 1], e[k : k + 1]), together.map(lambda x, k=k: x[k]))


@pytest.mark.parametrize("levy", [None, "davie-foster", ALL])
@pytest.mark.parametrize("own", [False, True])
def test_the_size_of_the_parts_does_not_change_a_bit(levy, own, monkeypatch):
    whole = BrownianPath(5, (1001, 2), cell=0.3, dtype=F32)
    s, e = random_ends(1001 if own else 1)
    expected, root = whole.window(levy)(s, e), whole.window(levy, (0.0, 0.1))
    monkeypatch.setattr(window_module, "BLOCK", 1)
    assert len(window_module._cuts(0, 2002, 64)) > 5
    monkeypatch.setattr(window_module, "_SORTED_WIDTH", 1000 if own else 10**6)
    assert equal(whole.window(levy)(s, e), expected)
    assert equal(whole.window(levy, (0.0, 0.1)).table, root.table)


def test_sorting_trajectories_by_levels_changes_no_bit(monkeypatch):
    """Some rest, some end on coarse ticks, some on any."""
    window = BrownianPath(6, (300, 1), cell=0.7, dtype=F32).window("space-time-time", (0.0, 0.7))
    for coarse in (0, 8, 20, 31):
        s, e = (x >> coarse << coarse for x in random_ends(300, coarse))
        e = torch.where(torch.arange(300) % 3 == 0, s, e)
        expected = window(s, e)
        with monkeypatch.context() as patch:
            patch.setattr(window_module, "_SORTED_WIDTH", 10)
            assert equal(window(s, e), expected)
            patch.setattr(window_module, "BLOCK", 1)
            assert equal(window(s, e), expected)


@pytest.mark.parametrize("dtype", [F32, F64])
def test_threads_do_not_change_a_bit(dtype):
    window, threads = BrownianPath(7, (600, 2), cell=0.1, dtype=dtype).window("davie-foster"), torch.get_num_threads()
    s, e = ticks(12345), ticks(2**31 + 1)
    try:
        torch.set_num_threads(1)
        one = window(s, e)
        torch.set_num_threads(2)
        two = window(s, e)
    finally:
        torch.set_num_threads(threads)
    assert equal(one, two)


@settings(max_examples=30)
@given(st.integers(0, 1000), DTYPE, LEVY, st.booleans())
def test_backwards_w_k_and_areas_change_their_sign_and_h_does_not(seed, dtype, levy, correlated):
    R = [[1.0, 0.4], [0.4, 1.0]] if correlated else None
    window = BrownianPath(seed, (4, 2), cell=0.3, dtype=dtype, correlation=R).window(levy)
    s, e = random_ends(4, seed)
    there, back = window(s, e), window(e, s)
    signs = -1, 1, -1, -1
    assert equal(back, type(there)(*(None if x is None else f * x for f, x in zip(signs, there, strict=True))))


@given(st.integers(-(2**40), 2**40), DTYPE, LEVY)
def test_from_a_time_to_itself_everything_is_zero(tick, dtype, levy):
    path = BrownianPath(1, (2, 2), cell=0.3, dtype=dtype)
    stacked = path.window(levy)(ticks(tick, tick)[:, None], ticks(tick, tick + 5)[:, None])
    seed = window_of_seed(1, path.paths, (2,), (-1.0, 1.0), dtype, levy)
    for found in (stacked.map(lambda x: x[0]), path.between(tick, tick, levy), seed(ticks(tick), ticks(tick))):
        assert all(torch.equal(x, torch.zeros_like(x)) for x in found if x is not None)


@pytest.mark.parametrize("levy", [None, ALL, "davie-foster"])
def test_float32_is_float64_with_fewer_digits(levy):
    s, e = random_ends(500)
    coarse, fine = (
        BrownianPath(3, (500, 2), cell=0.3, dtype=dtype).window(levy)(s, e).map(lambda x: x.double())
        for dtype in (F32, F64)
    )
    root = ((e - s).abs().double() * 0.3 / CELL).sqrt()[:, None]
    for x, y, power in zip(coarse, fine, (1, 1, 1, 2), strict=True):
        if x is not None:
            scale = (root**power).reshape(-1, *(1,) * (x.ndim - 1))
            assert ((x - y).abs() <= 2e-5 * scale).all() and not torch.equal(x, y)


# ---- intervals


@settings(max_examples=60)
@given(
    st.tuples(*[st.integers(-3 * CELL, 3 * CELL)] * 3), st.integers(0, 2**64 - 1), st.sampled_from([0, 20, 31]), DTYPE
)
def test_w_h_and_k_of_two_neighbours_are_those_of_both_together(points, seed, shift, dtype):
    s, t, u = sorted(x >> shift << shift for x in points)
    window = BrownianPath(seed, (3,), cell=0.5, dtype=dtype).window(ALL)
    first, second, both = (window(ticks(a), ticks(b)) for a, b in ((s, t), (t, u), (s, u)))
    if s == u:
        return
    h, a = (u - s) * 0.5 / CELL, (t - s) / (u - s)
    b = 1 - a
    eps = 1e-13 if dtype == F64 else 2e-6
    # by hand from the definitions: H = 1/h int (W(v) - v/h W) dv, K = 1/h^2 int (W(v) - v/h W) (h/2 - v) dv
    H = a * first.H + b * second.H + (b * first.w - a * second.w) / 2
    bend = b * first.w - a * second.w
    K = a * a * first.K + b * b * second.K + a * b / 2 * (first.H - second.H) + (b - a) / 12 * bend
    close((first.w + second.w, H, K), (both.w, both.H, both.K), eps * math.sqrt(h))


@settings(max_examples=40)
@given(
    st.integers(0, 2**64 - 1),
    st.floats(-1.7e9, 1.7e9) | st.floats(-1, 1) | st.just(1.7e9) | st.just(-1.7e9) | st.just(0.0),
    st.sampled_from([1e-12, 1e-9, 0.3, 1.0, 8.0, 1e6, 1e12]),
    st.lists(st.floats(0, 1), min_size=2, max_size=2),
)
def test_the_path_of_a_seed_is_that_of_cells_of_length_two_to_the_32(seed, start, span, places):
    """At all times and over all spans, by recursive halving."""
    span = max(span, 4 * np.spacing(abs(start)))
    window = window_of_seed(seed, ticks(9), (), (start, start + span), F64, ALL)
    a, b = sorted(int(np.rint((start + p * span) / window.tick)) for p in places)
    b += a == b
    assert abs(a * window.tick) < 2.0**62 and (1 << window.depth) * window.tick >= min(span, 2.0**32)
    found = window(ticks(a), ticks(b))
    expected = path_w_h_k(seed, 9, 0, a, b, 2.0**32, window.level + window.depth)
    root = math.sqrt((b - a) * window.tick)
    assert np.allclose([x.item() for x in found[:3]], expected, rtol=0, atol=1e-12 * root)


@settings(max_examples=30)
@given(st.integers(0, 2**64 - 1), LEVY, st.sampled_from([0.0, -1.0, 3.0]), st.integers(-6, 12))
def test_windows_of_one_seed_over_different_spans_see_the_same_path(seed, levy, start, exponent):
    """Also its areas, whose names do not depend on the window's ticks."""
    ids = ticks(3, 8)
    narrow = window_of_seed(seed, ids, (2,), (start, start + 2.0**-6), F64, levy)
    wide = window_of_seed(seed, ids, (2,), (start - 0.1, start + 2.0**exponent), F64, levy)
    assert narrow.tick <= wide.tick
    s, e = start + 2.0**-8, start + 3 * 2.0**-9
    found = [w(ticks(round(s / w.tick)), ticks(round(e / w.tick))) for w in (narrow, wide)]
    close(*found, atol=1e-13)


@settings(max_examples=40)
@given(st.integers(0, 1000), st.floats(-2, 2), st.floats(1e-6, 3.0), LEVY, st.sampled_from([0.0, -0.7]))
def test_a_window_for_a_span_sees_the_path_of_the_cells(seed, start, span, levy, origin):
    path = BrownianPath(seed, (3, 2), cell=0.5, origin=origin, dtype=F64)
    window, whole = path.window(levy, (start, start + span)), path.window(levy)
    low, high = path.ticks([start, start + span], 2.0**-53).tolist()
    assert window.level + window.depth == 32 and window.tick == whole.tick
    points = sorted({low, high, *(low + (high - low) * k // 7 for k in range(1, 7))})
    for a, b in pairwise(points):
        b = min(b, a + (1 << window.depth))
        close(window(ticks(a), ticks(b)), whole(ticks(a), ticks(b)), atol=1e-12)


@settings(max_examples=60)
@given(st.integers(0, 1000), st.integers(-4 * CELL, 4 * CELL), st.integers(0, 4 * CELL), st.integers(0, 32), DTYPE)
def test_a_window_gives_w_h_and_k_of_the_runs_of_cells(seed, start, length, shift, dtype):
    path = BrownianPath(seed, (3,), cell=0.5, dtype=dtype)
    start, end = start >> shift << shift, (start + length) >> shift << shift
    expected = path.between(start, end, ALL)
    close(path.window(ALL)(ticks(start), ticks(end)), expected, atol=1e-12 if dtype == F64 else 1e-5)


@given(st.integers(0, 1000), st.integers(-9, 9), DTYPE)
def test_whole_cells_of_a_window_are_the_cells(seed, cell, dtype):
    path = BrownianPath(seed, (3, 3), cell=0.5, dtype=dtype)
    for levy in (None, ALL, "davie-foster"):
        found = path.window(levy)(ticks(cell * CELL), ticks((cell + 1) * CELL))
        cells = path.cells(cell, 1, levy).map(lambda x: x[0])
        close(found, cells, atol=1e-15 if dtype == F64 else 1e-6)
        assert equal(path.between(cell * CELL, (cell + 1) * CELL, levy), cells)


@pytest.mark.parametrize("shape", [(0,), (3,), (0, 2), (2, 0), (2, 1), (2, 3, 2)])
def test_increments_have_the_shape_of_the_queries_and_of_the_path(shape):
    path = BrownianPath(0, shape, cell=1.0)
    for lanes in {1, shape[0]}:
        s, e = torch.zeros(5, lanes, dtype=torch.int64) + 7, torch.zeros(5, lanes, dtype=torch.int64) + 2**33
        found = path.window(ALL)(s, e)
        assert all(x.shape == (5, *shape) for x in found[:3])
    if len(shape) == 2:
        assert path.window("davie-foster")(s, e).area.shape == (5, shape[0], shape[1], shape[1])


# ---- compiled


@pytest.mark.compile
@pytest.mark.parametrize(("levy", "dtype", "own"), [(ALL, F64, True), ("davie-foster", F32, False)])
def test_a_window_in_a_compiled_loop_gives_what_it_gives_in_python(levy, dtype, own):
    """Steps of many lengths, shallow and deep, forwards and backwards, in one while_loop."""
    window = window_of_seed(2, torch.arange(6), (2,), (0.0, 1.0), dtype, levy)
    lengths = ticks(2**31, 2**28 + 1, 12345, 2**20, -(2**30), 0)
    start = torch.arange(6 if own else 1) * 1001

    def steps(start, lengths):
        def going(k, *_):
            return k < len(lengths)

        def body(k, time, total):
            after = time + lengths.index_select(0, k[None])
            inc = window(time, after)
            parts = [x.flatten(1) for x in inc if x is not None]
            return k + 1, after, total + (1.0 + k.to(dtype)) * torch.cat(parts, 1)

        width = {ALL: 6, "davie-foster": 8}[levy]
        zero = torch.zeros(6, width, dtype=dtype)
        return while_loop(going, body, (torch.zeros((), dtype=torch.int64), start, zero))[2]

    torch._dynamo.reset()
    eager = torch.zeros(())
    time = start
    for k, length in enumerate(lengths):
        inc = window(time, time + length)
        eager = eager + (1.0 + k) * torch.cat([x.flatten(1) for x in inc if x is not None], 1)
        time = time + length
    got = torch.compile(steps, fullgraph=True, backend="eager")(start, lengths)
    torch.testing.assert_close(got, eager, rtol=0, atol=1e-12 if dtype == F64 else 1e-5)
