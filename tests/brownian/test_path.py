import copy
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdesolve.brownian import BrownianPath
from sdesolve.brownian import path as path_module
from tests.brownian.reference import cell_triple, integrals, joined, normal_of_cell, w_h_k

F32, F64 = torch.float32, torch.float64
DTYPE = st.sampled_from([F32, F64])
CELL = st.integers(-(2**33), 2**33 - 1)


@given(st.integers(0, 2**64 - 1), CELL, st.integers(0, 2**32 - 1))
def test_increments_are_the_generators_normals_times_the_root_of_the_cell(seed, cell, path_id):
    path = BrownianPath(seed, (1, 2, 3), cell=0.3, paths=[path_id], dtype=F64)
    expected = [normal_of_cell(seed, path_id, channel, cell) for channel in range(6)]
    assert path.normals([cell]).flatten().tolist() == [pytest.approx(z, abs=1e-13) for z in expected]
    assert torch.equal(path.increments(cell, 1), path.normals([cell]) * math.sqrt(0.3))


@settings(max_examples=30)
@given(st.lists(CELL | st.integers(-9, 9), max_size=30), DTYPE)
def test_any_order_of_queries_gives_the_same_bits(cells, dtype):
    path = BrownianPath(3, (5, 2), cell=1.0, dtype=dtype)
    together = path.normals(torch.tensor(cells, dtype=torch.int64))
    assert together.shape == (len(cells), 5, 2)
    assert torch.equal(path.normals(cells[::-1]).flip(0), together)
    for row, cell in zip(together, cells, strict=True):
        assert torch.equal(path.increments(cell, 1)[0], row)


@given(st.integers(-20, 20), st.integers(0, 40), st.integers(0, 40), DTYPE)
def test_consecutive_increments_do_not_depend_on_where_they_are_cut(first, left, right, dtype):
    path = BrownianPath(4, (3,), cell=0.5, dtype=dtype)
    parts = path.increments(first, left), path.increments(first + left, right)
    assert torch.equal(torch.cat(parts), path.increments(first, left + right))


@settings(max_examples=20)
@given(st.integers(1, 300), st.integers(0, 300), st.integers(0, 60), st.integers(1, 5000), DTYPE)
def test_size_of_the_blocks_does_not_change_a_bit(batch, first, count, block, dtype):
    path = BrownianPath(5, (batch,), cell=0.25, dtype=dtype)

    def queries():
        return (
            path.increments(first, count),
            path.normals(range(first + count, first, -3)),
            path(first * 0.25, (first + count) * 0.25),
        )

    expected = queries()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(path_module, "BLOCK", block)
        assert all(torch.equal(a, b) for a, b in zip(queries(), expected, strict=True))


@pytest.mark.parametrize("dtype", [F32, F64])
def test_trajectory_is_bitwise_the_same_alone_in_eight_and_in_a_thousand(dtype):
    whole = BrownianPath(6, (1000, 3), cell=0.01, dtype=dtype)
    w, increments = whole(0.0, 5.0), whole.increments(-7, 33)
    for ids in ([0], [999], [17], list(range(8)), [5, 3, 900, 40, 2, 1, 0, 999]):
        shard = whole.for_paths(ids)
        assert torch.equal(shard(0.0, 5.0), w[ids])
        assert torch.equal(shard.increments(-7, 33), increments[:, ids])
    fresh = BrownianPath(6, (2, 3), cell=0.01, paths=torch.tensor([998, 12]), dtype=dtype)
    assert torch.equal(fresh(0.0, 5.0), w[[998, 12]])


def test_threads_do_not_change_a_bit():
    path, threads = BrownianPath(7, (50_000, 2), cell=0.1, dtype=F32), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = path(0.0, 0.3)
        torch.set_num_threads(2)
        two = path(0.0, 0.3)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(one, two)


@given(st.tuples(*[st.integers(-500, 500)] * 3), DTYPE, st.sampled_from([0.0, 1.0, -0.7]))
def test_increments_of_adjacent_intervals_add_up(indices, dtype, origin):
    path = BrownianPath(8, (2, 2), cell=0.01, origin=origin, dtype=dtype)
    s, t, u = (origin + i * 0.01 for i in indices)
    tolerance = 1e-12 if dtype == F64 else 1e-5
    torch.testing.assert_close(path(s, t) + path(t, u), path(s, u), rtol=0, atol=tolerance)
    assert torch.equal(path(s, t), -path(t, s))
    assert torch.equal(path(s, s), torch.zeros(2, 2, dtype=dtype))
    direct = path.increments(min(indices[:2]), abs(indices[1] - indices[0])).double().sum(0)
    sign = 1 if s <= t else -1
    torch.testing.assert_close(path(s, t).double(), sign * direct, rtol=0, atol=tolerance)


def test_a_long_sum_keeps_its_accuracy():
    path, count = BrownianPath(9, (1,), cell=1.0, dtype=F32), 2_000_000
    exact = path.increments(0, count).double().sum()
    assert abs(path(0, count).item() - exact) < 2.0**-22 * math.sqrt(count)
    finer = BrownianPath(9, (1,), cell=1.0, dtype=F64)(0, count)
    assert abs(finer.item() - exact) < 2.0**-24 * count


def test_origin_shifts_time():
    a, b = BrownianPath(1, (2,), cell=0.5), BrownianPath(1, (2,), cell=0.5, origin=10.0)
    assert torch.equal(a(-1.0, 2.0), b(9.0, 12.0))


def test_float64_path_is_the_float32_path_with_more_digits():
    coarse, fine = (BrownianPath(2, (50,), cell=0.1, dtype=dtype)(0.0, 3.0) for dtype in (F32, F64))
    assert coarse.dtype == F32 and fine.dtype == F64
    torch.testing.assert_close(coarse.double(), fine, rtol=0, atol=1e-5)
    assert not torch.equal(coarse.double(), fine)


def test_times_may_miss_a_boundary_by_rounding_only():
    path = BrownianPath(0, (2,), cell=0.1)
    assert torch.equal(path(0.0, 0.1 + 0.2), path.increments(0, 3)[:2].sum(0) + path.increments(2, 1)[0])
    assert torch.equal(path(torch.tensor(0.0), torch.tensor(0.7)), path(0.0, 0.7))
    assert torch.equal(path(torch.tensor(1000.1), torch.tensor(1000.3)), path(1000.1, 1000.3))
    assert torch.equal(path(0, torch.tensor(1)), path(0.0, 1.0))
    for other in (0.05, 0.1001, 0.1 + 3e-7):  # these are within a cell
        assert (path(0.0, other) != path(0.0, 0.1)).all()
    assert (path(torch.tensor(0.0), torch.tensor(1000.05)) != path(0.0, 1000.1)).all()


@pytest.mark.parametrize("dtype", [F32, F64])
def test_times_within_a_cell_are_rounded_to_its_lattice(dtype):
    path, tick = BrownianPath(0, (2,), cell=0.5, dtype=dtype), 2.0**-33
    for time in (0.1, -0.3, 7.77, 0.5 + 20 * tick):
        for off in (-0.49, 0.49):
            near = round(time / tick) * tick
            assert torch.equal(path(0.0, near + off * tick), path(0.0, near))
        assert (path(0.0, near + tick) != path(0.0, near)).all() or dtype == F32
    last = 0.5 - 0.4 * tick  # rounds to the next cell
    assert torch.equal(path(0.0, last), path(0.0, 0.5)) and torch.equal(path(last, 0.75), path(0.5, 0.75))


def test_float32_times_snap_to_a_boundary_within_their_own_rounding_only():
    path = BrownianPath(0, (2,), cell=0.1)
    near = torch.nextafter(torch.tensor(1000.1), torch.tensor(0.0))
    assert torch.equal(path(0.0, near), path(0.0, 1000.1))
    assert not torch.equal(path(0.0, float(near)), path(0.0, 1000.1))


@pytest.mark.parametrize("levy", [None, "space-time", "space-time-time", "davie-foster"])
@given(st.integers(0, 2**64 - 1), st.tuples(*[st.floats(-3, 3)] * 3))
@settings(max_examples=25)
def test_adjacent_increments_within_cells_add_up_and_read_backwards(levy, seed, times):
    s, t, u = sorted(times)
    path = BrownianPath(seed, (2, 2), cell=0.7, levy=levy, dtype=F64)
    as_w = lambda inc: inc if levy is None else inc.w
    torch.testing.assert_close(as_w(path(s, t)) + as_w(path(t, u)), as_w(path(s, u)), rtol=0, atol=1e-13)
    assert torch.equal(as_w(path(u, s)), -as_w(path(s, u)))
    assert torch.equal(as_w(path(t, t)), torch.zeros(2, 2, dtype=F64))
    if levy is not None:
        there, back = path(s, u), path(u, s)
        assert torch.equal(there.H, back.H)
        if levy == "space-time-time":
            assert torch.equal(there.K, -back.K)


def test_levy_areas_do_not_change_w():
    plain = BrownianPath(0, (3, 2), cell=0.5)
    for levy in ("space-time", "space-time-time", "davie-foster"):
        path = BrownianPath(0, (3, 2), cell=0.5, levy=levy)
        for s, t in ((0.0, 2.0), (0.1, 0.2), (0.1, 1.7)):
            assert torch.equal(path(s, t).w, plain(s, t))
        assert torch.equal(path.increments(-2, 5).w, plain.increments(-2, 5))


@given(st.integers(0, 1000), st.integers(-9, 9), st.integers(1, 300))
def test_h_and_k_of_a_run_of_cells_are_the_integrals_over_the_path_through_them(seed, first, count):
    path = BrownianPath(seed, (1,), cell=0.5, levy="space-time-time", dtype=F64)
    total, length = (0.0, 0.0, 0.0), 0.0
    for cell in range(first, first + count):
        total = joined(total, length, integrals(cell_triple(seed, 0, 0, cell), 0.5), 0.5)
        length += 0.5
    found = path(0.5 * first, 0.5 * (first + count))
    expected = w_h_k(total, length)
    assert [x.item() for x in found[:3]] == [pytest.approx(x, abs=1e-12 * length) for x in expected]


def test_whole_cells_reach_to_two_to_the_33_and_times_within_cells_to_two_to_the_31():
    path = BrownianPath(0, (2,), cell=1.0, dtype=F64)
    for cell in (2**31, -(2**31), 2**32 + 5, 2**33 - 2):
        assert torch.equal(path(float(cell), cell + 1.0), path.increments(cell, 1)[0])
    for start in (2.0**31 - 9, -(2.0**31) + 9, 1.7e9):
        parts = path(start, start + 0.5) + path(start + 0.5, start + 1)
        torch.testing.assert_close(parts, path(start, start + 1), rtol=0, atol=1e-15)
    with pytest.raises(ValueError, match=r"t: got .*within 2\*\*31 - 1 cells"):
        path(0.0, 2.0**31 + 0.5)


def test_shapes_of_trajectories_and_channels():
    for shape in [(3,), (3, 1), (3, 2, 4), (0, 2), (2, 0), (0,)]:
        path = BrownianPath(0, shape, cell=1.0)
        assert path.increments(0, 5).shape == (5, *shape)
        assert path.increments(0, 0).shape == (0, *shape)
        assert path.normals([]).shape == (0, *shape)
        assert path(0.0, 3.0).shape == path(1.0, 1.0).shape == shape
    flat, folded = BrownianPath(0, (3, 8), cell=1.0), BrownianPath(0, (3, 2, 4), cell=1.0)
    assert torch.equal(flat(0, 2), folded(0, 2).flatten(1))
    assert torch.equal(flat(0, 2)[:, :1], BrownianPath(0, (3, 1), cell=1.0)(0, 2))


def test_path_is_frozen_and_can_be_copied():
    ids = torch.tensor([3, 1])
    path = BrownianPath(2**64 - 1, (2,), cell=1.0, paths=ids)
    expected = path(0, 5)
    ids[0] = 9
    assert path.paths.tolist() == [3, 1]
    with pytest.raises(AttributeError, match="frozen"):
        path.cell = 2.0
    for again in (copy.deepcopy(path), pickle.loads(pickle.dumps(path)), path.for_paths([3, 1])):
        assert torch.equal(again(0, 5), expected)
    assert repr(path).startswith("BrownianPath(seed=18446744073709551615, shape=(2,), cell=1.0, origin=0.0")
    assert BrownianPath(0, (1,), cell=1).dtype == torch.get_default_dtype()


def test_global_random_state_is_neither_read_nor_changed():
    path = BrownianPath(0, (4,), cell=1.0)
    torch.manual_seed(0)
    state, first = torch.get_rng_state(), path(0, 9)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    assert torch.equal(path(0, 9), first)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"seed": -1}, r"seed: got -1 \(int\); accepted is an int in \[0, 2\*\*64\)"),
        ({"seed": 2**64}, "seed: got 18446744073709551616"),
        ({"seed": 0.5}, "seed: got 0.5"),
        ({"shape": ()}, r"shape: got \(\); accepted is \(batch, \*channels\)"),
        ({"shape": (2, -1)}, "shape: got"),
        ({"shape": 3}, "shape: got 3"),
        ({"shape": (2, 1.5)}, "shape: got"),
        ({"shape": (0, 2**13, 2**12)}, "at most 16777216 channels"),
        ({"cell": 0.0}, "cell: got 0.0; accepted is a positive, finite length"),
        ({"cell": math.inf}, "cell: got inf"),
        ({"cell": math.nan}, "cell: got nan"),
        ({"origin": math.inf}, "origin: got inf; accepted is a finite time"),
        ({"paths": [0]}, "paths: got 1 ids; accepted is one id for each of 2 trajectories"),
        ({"paths": [0, -1]}, r"paths: got ids from -1 to 0; accepted is ids in \[0, 2\*\*32\)"),
        ({"paths": [0, 2**32]}, "paths: got ids from 0 to 4294967296"),
        ({"paths": [7, 7]}, "paths: got id 7 more than once; accepted is different ids"),
        (
            {"paths": [0.0, 1.0]},
            "paths: got .*; accepted is a one-dimensional sequence or tensor of integers",
        ),
        ({"paths": [0, 2**70]}, "paths: got"),
        ({"paths": torch.zeros(2, 1, dtype=torch.int64)}, "one-dimensional"),
        ({"paths": [True, False]}, "paths: got"),
        (
            {"levy": "time-space"},
            "levy: got 'time-space'; accepted is None, 'space-time', 'space-time-time', 'davie-foster'",
        ),
        (
            {"levy": "davie-foster"},
            r"levy: got 'davie-foster' for shape \(2,\); accepted is .* for shapes \(batch, m\)",
        ),
        ({"dtype": torch.float16}, "dtype: got torch.float16; accepted is torch.float32 or torch.float64"),
        ({"dtype": torch.int64}, "dtype: got"),
    ],
)
def test_arguments_out_of_range_are_named(arguments, text):
    with pytest.raises(ValueError, match=text):
        BrownianPath(**{"seed": 0, "shape": (2,), "cell": 1.0} | arguments)


def test_queries_out_of_range_are_named():
    path = BrownianPath(0, (2,), cell=0.25)
    for query, text in [
        (lambda: path(0.0, math.nan), "t: got nan"),
        (lambda: path(-math.inf, 0.0), "s: got -inf"),
        (lambda: path(0.0, 1e12), r"t: got 1000000000000.0; accepted is a time within 2\*\*33 cells"),
        (lambda: path(torch.zeros(2), 0.0), r"s: got a tensor of shape \(2,\); accepted is a float or a 0-d"),
        (lambda: path.normals([2**33]), r"cells: got .* accepted is cells in \[-2\*\*33, 2\*\*33\)"),
        (lambda: path.normals([0.5]), "cells: got"),
        (lambda: path.increments(-(2**33) - 1, 2), "cells: got"),
        (lambda: path.increments(2**33 - 1, 2), "cells: got"),
        (lambda: path.increments(0, -1), "count: got -1"),
    ]:
        with pytest.raises(ValueError, match=text):
            query()
    assert path.increments(2**33 - 1, 1).shape == path.increments(-(2**33), 1).shape == (1, 2)
