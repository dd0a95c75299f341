import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdesolve.brownian.counter import (
    cell_normals,
    key_words,
    off_grid_counter,
    off_grid_normals,
    whole_cell_counter,
)
from tests.brownian.reference import normal_of_cell, normal_off_grid

F32, F64 = torch.float32, torch.float64
SEED = st.integers(0, 2**64 - 1)
PATH = st.integers(0, 2**32 - 1)
CELL = st.integers(-(2**33), 2**33 - 1) | st.sampled_from([-(2**33), -1, 0, 3, 4, 2**33 - 1])
TICK = st.integers(0, 2**32 - 1)


def ints(*values):
    return torch.tensor(values, dtype=torch.int64)


def words(counter):
    return [word.squeeze().tolist() for word in counter]


def test_counter_words_are_frozen():
    assert [k.item() for k in key_words(0x0123456789ABCDEF)] == [0x89ABCDEF, 0x01234567]
    assert words(whole_cell_counter(ints(7), 1, ints(5))) == [7, 5, 0, 0]
    assert words(whole_cell_counter(ints(2**32 - 1), 1, ints(-1), stream=2)) == [2**32 - 1] * 2 + [2 << 24, 0]
    assert words(whole_cell_counter(ints(1, 2), 2, ints(-(2**31)))) == [[1, 1, 2, 2], 2**31, [0, 1, 0, 1], 0]
    assert words(off_grid_counter(ints(7), 1, ints(-2), ints(9))) == [7, 2**32 - 2, 4 << 24, 9]
    own_clocks = off_grid_counter(ints(1, 2), 2, ints(3, -1)[None], ints(5, 6)[None])
    stream = 4 << 24
    assert words(own_clocks) == [
        [1, 1, 2, 2],
        [3, 3, 2**32 - 1, 2**32 - 1],
        [stream, stream + 1, stream, stream + 1],
        [5, 5, 6, 6],
    ]


WHOLE_CELLS_FROM_MINUS_FOUR_TO_THREE = [
    [1.00155371840972, 0.23847326545462155],
    [-2.116242416432772, -0.8759390881118561],
    [0.5371778493245153, -2.3648014707990925],
    [0.3864102853614078, -0.2980816850475778],
    [-0.8988184606419423, 1.6577596371662933],
    [0.1019565715374775, 0.8081666762599626],
    [-0.008904353535949011, -0.6104144354424297],
    [1.6996434964525504, -0.2816015197616557],
]
OFF_GRID_AT_MINUS_ONE_HALF = [0.3469143996265127, 0.028468401529873188]


def test_normals_are_frozen():
    key = key_words(2024)
    whole = cell_normals(key, ints(3), 2, ints(-1, 0), F64)[:, 0]
    assert whole.tolist() == [
        [pytest.approx(z, abs=1e-12) for z in row] for row in WHOLE_CELLS_FROM_MINUS_FOUR_TO_THREE
    ]
    (off_grid,) = off_grid_normals(key, ints(3), 2, ints(-1), ints(2**31), F64)
    assert off_grid.flatten().tolist() == [pytest.approx(z, abs=1e-12) for z in OFF_GRID_AT_MINUS_ONE_HALF]


@given(SEED, PATH, st.integers(0, 40), CELL, st.sampled_from([0, 1, 2, 3]))
def test_cell_normals_follow_the_documented_layout(seed, path, channel, cell, stream):
    key = key_words(seed)
    z = cell_normals(key, ints(path), channel + 1, ints(cell >> 2), F64, stream)[cell & 3, 0, channel]
    assert z.item() == pytest.approx(normal_of_cell(seed, path, channel, cell, stream), abs=1e-13)


@given(SEED, PATH, st.integers(0, 40), st.integers(-(2**31), 2**31 - 1), TICK)
def test_off_grid_normals_follow_the_documented_layout(seed, path, channel, cell, tick):
    (z,) = off_grid_normals(key_words(seed), ints(path), channel + 1, ints(cell), ints(tick), F64)
    assert z[0, 0, channel].item() == pytest.approx(normal_off_grid(seed, path, channel, cell, tick), abs=1e-13)


def test_the_last_channel_and_the_first_of_the_next_stream_differ():
    # 24 bits of channel end where the stream begins.
    c2 = whole_cell_counter(ints(0), 2**24, ints(0))[2]
    assert c2.max() == 2**24 - 1
    assert whole_cell_counter(ints(0), 1, ints(0), stream=1)[2].item() == 2**24


def test_float64_normals_refine_the_float32_ones():
    key, quads = key_words(5), torch.arange(-25_000, 25_000)
    coarse, fine = (cell_normals(key, ints(0), 1, quads, dtype).flatten() for dtype in (F32, F64))
    pairs = fine.view(-1, 2)
    radius = (pairs**2).sum(1).sqrt().repeat_interleave(2)
    # u is off by 2^-25 near 1, which moves the radius by 2^-25 / (u r); the angle is off by a few 2^-24.
    bound = 2.0**-24 / radius.clamp_min(2.0**-12) + 2.0**-20 * radius
    assert ((coarse - fine).abs() <= bound).all()
    assert ((coarse - fine).abs() < 1e-6 * radius)[radius > 0.5].all()
    assert ((coarse - fine).abs() > 0).any()


@settings(max_examples=15)
@given(SEED, st.sampled_from([F32, F64]), st.integers(1, 3), st.data())
def test_normals_are_bitwise_the_same_in_every_batch(seed, dtype, channels, data):
    key, quads = key_words(seed), torch.arange(-3, 4)
    cells, ticks = torch.arange(-3, 4), torch.arange(7) * 2**29
    all_paths = torch.randperm(1000, generator=torch.Generator().manual_seed(seed % 2**63))
    whole = cell_normals(key, all_paths, channels, quads, dtype)
    (off,) = off_grid_normals(key, all_paths, channels, cells, ticks, dtype)
    for batch in (1, 8, data.draw(st.integers(1, 999))):
        start = data.draw(st.integers(0, 1000 - batch))
        part = slice(start, start + batch)
        assert torch.equal(cell_normals(key, all_paths[part], channels, quads, dtype), whole[:, part])
        assert torch.equal(off_grid_normals(key, all_paths[part], channels, cells, ticks, dtype)[0], off[:, part])


@pytest.mark.parametrize("dtype", [F32, F64])
def test_normals_are_bitwise_the_same_on_one_and_two_threads(dtype):
    key, paths, threads = key_words(6), torch.arange(70_000), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = cell_normals(key, paths, 1, ints(5), dtype)
        torch.set_num_threads(2)
        two = cell_normals(key, paths, 1, ints(5), dtype)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(one, two)


@pytest.mark.parametrize("dtype", [F32, F64])
def test_large_batches_are_bitwise_the_same_as_their_shards(dtype):
    key, paths = key_words(6), torch.arange(200_000)
    whole = cell_normals(key, paths, 1, ints(5), dtype)
    shards = [cell_normals(key, paths[i : i + 999], 1, ints(5), dtype) for i in range(100_000, 130_000, 999)]
    assert torch.equal(torch.cat(shards, 1), whole[:, 100_000 : 100_000 + 999 * len(shards)])


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("paths, channels, quads", [(40_000, 1, 3), (7, 3, 5000), (1, 1, 50_000), (9000, 3, 1)])
def test_draws_in_parts_are_bitwise_those_of_plain_tensor_arithmetic(monkeypatch, dtype, paths, channels, quads):
    import sdesolve.brownian.counter as counter
    import sdesolve.brownian.philox as generator

    def draw():
        names = key_words(2**40 + 3), torch.arange(paths), channels, torch.arange(-2, quads - 2)
        off = [off_grid_normals(*names, 5 * names[-1] & 0xFFFFFFFF, dtype, count=count) for count in (1, 2, 3)]
        return [cell_normals(*names, dtype), *(z for normals in off for z in normals)]

    parts = draw()
    for module in (counter, generator):
        monkeypatch.setattr(module, "is_plain", lambda x: False)
    whole = draw()
    assert len(parts) == len(whole) == 7
    assert all(torch.equal(a, b) for a, b in zip(parts, whole, strict=True))


@given(st.lists(CELL, min_size=3, max_size=3), st.sampled_from([F32, F64]))
def test_own_clocks_see_the_noise_of_the_shared_clock(cells, dtype):
    key, paths = key_words(8), ints(4, 5, 6)
    quads = ints(*cells) >> 2
    own = cell_normals(key, paths, 2, torch.stack((quads, quads.flip(0))), dtype).view(2, 4, 3, 2)
    shared = cell_normals(key, paths, 2, quads, dtype).view(3, 4, 3, 2)
    for i in range(3):
        assert torch.equal(own[0, :, i], shared[i, :, i])
        assert torch.equal(own[1, :, i], shared[2 - i, :, i])
    ticks = ints(1, 2, 3)
    (own,) = off_grid_normals(key, paths, 2, quads[None], ticks[None], dtype)
    (shared,) = off_grid_normals(key, paths, 2, quads, ticks, dtype)
    assert torch.equal(own[0], torch.stack([shared[i, i] for i in range(3)]))


def test_own_clocks_in_blocks_see_the_noise_of_the_shared_clock():
    key, paths, quads = key_words(8), torch.arange(70_000), ints(3, -2)
    own = cell_normals(key, paths, 3, quads[:, None].expand(2, 70_000), F32)
    assert torch.equal(own, cell_normals(key, paths, 3, quads, F32))


def test_one_call_of_the_generator_gives_four_float32_normals_and_two_give_float64(monkeypatch):
    import sdesolve.brownian.counter as counter

    calls = []

    def counted(*args):
        out = philox(*args)
        calls.append(out[0].numel())
        return out

    philox = counter.philox4x32
    monkeypatch.setattr(counter, "philox4x32", counted)
    for dtype, count in ((F32, 1), (F64, 2)):
        calls.clear()
        z = cell_normals(key_words(0), torch.arange(10), 3, torch.arange(6), dtype)
        assert sum(calls) == count * z.numel() / 4


@pytest.mark.compile
def test_compiled_normals_agree_with_eager_ones():
    def draw(key, paths, quads, cells, ticks):
        whole = cell_normals(key, paths, 2, quads, F32)
        return whole, off_grid_normals(key, paths, 2, cells, ticks, F32)[0]

    args = (key_words(2**63 + 5), torch.arange(50), ints(-1, 0, 2**30), ints(-1, 5), ints(3, 2**32 - 1))
    torch._dynamo.reset()
    compiled = torch.compile(draw, fullgraph=True, dynamic=False)
    for got, expected in zip(compiled(*args), draw(*args), strict=True):
        assert got.shape == expected.shape
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("seed", [-1, 2**64, 1.0, "1", True, None])
def test_seeds_outside_64_bits_are_refused(seed):
    with pytest.raises(ValueError, match=r"seed: got .*; accepted is an int in \[0, 2\*\*64\)"):
        key_words(seed)


def test_other_dtypes_are_refused():
    with pytest.raises(ValueError, match=r"dtype: got torch.float16; accepted is torch.float32 or torch.float64"):
        cell_normals(key_words(0), ints(0), 1, ints(0), torch.float16)


def test_seeds_may_be_numpy_integers_and_use_all_64_bits():
    import numpy as np

    assert [k.item() for k in key_words(np.uint64(2**64 - 1))] == [2**32 - 1] * 2
    normals = [cell_normals(key_words(s), ints(0), 1, ints(0), F32) for s in (0, 1, 2**32, 2**63)]
    assert all(not torch.equal(a, b) for i, a in enumerate(normals) for b in normals[:i])
    assert all(math.isfinite(z.sum()) for z in normals)
